// Drives the TensorRT plugin's methods as TensorRT does, without TensorRT, and prints what they answer. Built with
// sanitizers; the kernel underneath is the CPU's. What to do is the first argument:
//   formats OP      every combination of types and layouts that is accepted, and the sentence for each refusal
//   shapes OP       the output's shape as an expression, and refused ranks and counts
//   life OP         clones, contexts, what a plan carries, and plans of other versions
//   failing OP      a kernel that cannot run, and what enqueue allocates before it is called
//   run             problems from stdin through configurePlugin, onShapeChange and enqueue; answers on stdout
#include "host.h"

#include <iostream>

// Of the sanitizers' allocator; its header is not installed with every compiler.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t),
                                                         void (*free_hook)(const volatile void*));
extern "C" void* stand_in_stream;
extern "C" int stand_in_calls, stand_in_device_levels;
extern "C" const char* stand_in_error;

namespace {

using namespace host;

Finder finder;

struct Size final : IDimensionExpr {
  struct Impl final : apiv::VDimensionExpr {
    bool isConstant() const override { return false; }
    int64_t getConstantValue() const override { return -1; }
    bool isSizeTensor() const override { return false; }
  } impl;
  std::string text;
  explicit Size(std::string name) : text(std::move(name)) { mImpl = &impl; }
};

struct Sizes final : IExprBuilder, private apiv::VExprBuilder {
  std::vector<std::unique_ptr<Size>> made;
  Sizes() { mImpl = this; }
  const IDimensionExpr* add(std::string text) {
    made.push_back(std::make_unique<Size>(std::move(text)));
    return made.back().get();
  }
  static const std::string& text(const IDimensionExpr& size) { return static_cast<const Size&>(size).text; }

 private:
  const IDimensionExpr* constant(int64_t value) override { return add(std::to_string(value)); }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) override {
    return add(text(a) + (op == DimensionOperation::kPROD ? "*" : "?") + text(b));
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }
};

int inputs_of(const std::string& op) { return op == "MSDeformAttn" ? 4 : 5; }

// As TensorRT asks: position after position, going on from every answer that was yes.
void formats(const std::string& op, Node& node, std::vector<DynamicPluginTensorDesc>& tensors, int32_t position) {
  const int32_t inputs = inputs_of(op);
  if (position == inputs + 1) {
    for (const auto& tensor : tensors) std::cout << static_cast<int>(tensor.desc.type) << " ";
    std::cout << "\n";
    return;
  }
  for (int type = 0; type < EnumMax<DataType>() + 1; ++type)
    for (int layout = 0; layout < EnumMax<TensorFormat>() + 1; ++layout) {
      tensors[position].desc.type = static_cast<DataType>(type);
      tensors[position].desc.format = static_cast<TensorFormat>(layout);
      if (node.build->supportsFormatCombination(position, tensors.data(), inputs, 1)) {
        if (layout) std::cout << "layout " << layout << "\n";
        formats(op, node, tensors, position + 1);
      }
    }
}

void formats(const std::string& op) {
  Node node(op);
  std::vector<DynamicPluginTensorDesc> tensors(inputs_of(op) + 1);
  formats(op, node, tensors, 0);
  for (const std::string& line : finder.log.lines) std::cout << line << "\n";
  finder.log.lines.clear();
  formats(op, node, tensors, 0);  // a second time: nothing new is said
  std::cout << "again " << finder.log.lines.size() << "\n";
  const Node clone(node.plugin->clone());
  tensors[0].desc.type = DataType::kINT8;
  clone.build->supportsFormatCombination(0, tensors.data(), inputs_of(op), 1);
  std::cout << "by a clone " << finder.log.lines.size() << "\n";
  const Node other(op, "another node");
  other.build->supportsFormatCombination(0, tensors.data(), inputs_of(op), 1);
  std::cout << "by another node " << finder.log.take() << "\n";
  std::cout << node.build->supportsFormatCombination(0, tensors.data(), 3, 1) << finder.log.take() << "\n";
}

void shapes(const std::string& op) {
  const std::vector<std::vector<const char*>> names =
      op == "MSDeformAttn" ? std::vector<std::vector<const char*>>{{"N", "S", "M", "D"},
                                                                   {"L", "2"},
                                                                   {"R", "Q'", "1", "2"},
                                                                   {"N'", "Q", "M'", "3LP"}}
                           : std::vector<std::vector<const char*>>{{"N", "S", "M", "D"},
                                                                   {"L", "2"},
                                                                   {"L'"},
                                                                   {"N'", "Q", "M'", "L''", "P", "2"},
                                                                   {"N''", "Q''", "M''", "L3", "P'"}};
  Node node(op);
  Sizes build;
  std::vector<DimsExprs> inputs(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    inputs[i].nbDims = static_cast<int32_t>(names[i].size());
    for (size_t k = 0; k < names[i].size(); ++k) inputs[i].d[k] = build.add(names[i][k]);
  }
  const int32_t count = static_cast<int32_t>(inputs.size());
  DimsExprs output{};
  const int rc = node.build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, build);
  std::cout << rc;
  for (int32_t i = 0; i < output.nbDims; ++i) std::cout << " " << Sizes::text(*output.d[i]);
  std::cout << "\n" << node.build->getNbOutputs() << " " << node.build->getNbTactics() << "\n";
  for (size_t i = 0; i < inputs.size(); ++i) {
    ++inputs[i].nbDims;
    std::cout << node.build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, build) << " "
              << finder.log.take() << "\n";
    --inputs[i].nbDims;
  }
  std::cout << node.build->getOutputShapes(inputs.data(), count - 1, nullptr, 0, &output, 1, build) << " "
            << finder.log.take() << "\n";
  const std::vector<DataType> types(count, DataType::kBF16);
  DataType type = DataType::kINT8;
  std::cout << node.build->getOutputDataTypes(&type, 1, types.data(), count) << " " << static_cast<int>(type) << "\n";
}

void life(const std::string& op) {
  IPluginCreatorV3One& maker = creator(op);
  std::cout << maker.getPluginName() << " " << maker.getPluginVersion() << " " << maker.getPluginNamespace() << " "
            << maker.getFieldNames()->nbFields << "\n";
  std::unique_ptr<Node> first = std::make_unique<Node>(op);
  const Node clone(first->plugin->clone());
  first.reset();  // a clone owes nothing to the one it was made from
  const Node context(clone.runtime->attachToContext(nullptr));
  std::cout << context.core->getPluginName() << " " << context.core->getPluginVersion() << " "
            << context.core->getPluginNamespace() << " " << context.build->getTimingCacheID() << "\n";
  const PluginFieldCollection* fields = context.runtime->getFieldsToSerialize();
  // What a plan keeps is a copy of names and numbers.
  std::vector<PluginField> kept(fields->fields, fields->fields + fields->nbFields);
  int32_t version = *static_cast<const int32_t*>(kept.at(0).data);
  std::cout << kept.size() << " " << kept[0].name << " " << version << "\n";
  kept[0].data = &version;
  const PluginFieldCollection plan{static_cast<int32_t>(kept.size()), kept.data()};
  const Node loaded(maker.createPlugin("from a plan", &plan, TensorRTPhase::kRUNTIME));
  std::cout << loaded.core->getPluginName() << "\n";
  for (int32_t other : {0, -1, 2, 77}) {
    version = other;
    IPluginV3* none = maker.createPlugin("from a plan", &plan, TensorRTPhase::kRUNTIME);
    std::cout << (none ? "made" : "refused") << " " << finder.log.take() << "\n";
    delete none;
  }
  version = 1;
  kept[0].length = 2;
  IPluginV3* none = maker.createPlugin(nullptr, &plan, TensorRTPhase::kRUNTIME);
  std::cout << (none ? "made" : "refused") << " " << finder.log.take() << "\n";
  delete none;
  none = maker.createPlugin(nullptr, nullptr, TensorRTPhase::kRUNTIME);
  std::cout << (none ? "made" : "refused") << " " << finder.log.take() << "\n";
  delete none;
}

bool counting = false;
int allocations = 0;

// The kernel's call fails at once, so that what was allocated before its error is spoken is enqueue's own.
void failing(const std::string& op) {
  const bool fused = op == "MSDeformAttn";
  const Node node(op);
  std::vector<PluginTensorDesc> descs = {desc(DataType::kHALF, {1, 5, 2, 8}), desc(DataType::kINT32, {2, 2})};
  if (fused) {
    descs.push_back(desc(DataType::kFLOAT, {1, 3, 1, 2}));
    descs.push_back(desc(DataType::kHALF, {1, 3, 2, 24}));
  } else {
    descs.push_back(desc(DataType::kINT32, {2}));
    descs.push_back(desc(DataType::kFLOAT, {1, 3, 2, 2, 4, 2}));
    descs.push_back(desc(DataType::kHALF, {1, 3, 2, 2, 4}));
  }
  const PluginTensorDesc output = desc(DataType::kHALF, {1, 3, 16});
  const void* in[5] = {};
  void* out = nullptr;
  stand_in_error = "no kernel image is available for this device; build with its architecture";
  __sanitizer_install_malloc_and_free_hooks([](const volatile void*, size_t) { allocations += counting; },
                                            [](const volatile void*) {});
  finder.log.on_message = [] { counting = false; };
  for (int call = 0; call < 2; ++call) {
    counting = true;
    const int done = node.runtime->enqueue(descs.data(), &output, in, &out, nullptr, nullptr);
    counting = false;
    std::cout << done << " " << finder.log.take() << "\n";
  }
  std::cout << "calls " << stand_in_calls << ", allocations " << allocations << "\n";
}

// Each problem: OP, then for every input and the output "type rank dims.. bytes\n" and as many bytes. Sizes and data
// are in buffers of exactly their length.
void run() {
  std::string op;
  while (std::cin >> op) {
    Node node(op);
    const int32_t inputs = inputs_of(op);
    std::vector<PluginTensorDesc> descs;
    std::vector<std::unique_ptr<char[]>> data;
    size_t bytes = 0;
    for (int32_t i = 0; i <= inputs; ++i) {
      int type, rank;
      std::cin >> type >> rank;
      std::vector<int64_t> dims(rank > 0 ? rank : 0);
      for (int64_t& size : dims) std::cin >> size;
      std::cin >> bytes;
      std::cin.get();
      descs.push_back(desc(static_cast<DataType>(type), dims));
      descs.back().dims.nbDims = rank;
      data.emplace_back(new char[bytes]);
      std::cin.read(data.back().get(), static_cast<std::streamsize>(bytes));
    }
    std::vector<DynamicPluginTensorDesc> bounds;
    for (const PluginTensorDesc& one : descs) bounds.push_back(dynamic(one));
    const int configured = node.build->configurePlugin(bounds.data(), inputs, &bounds[inputs], 1);
    const std::string said_first = finder.log.take();
    const int changed = node.runtime->onShapeChange(descs.data(), inputs, &descs[inputs], 1);
    const std::string said_second = finder.log.take();
    std::vector<const void*> in;
    for (int32_t i = 0; i < inputs; ++i) in.push_back(data[i].get());
    void* out = data[inputs].get();
    char anywhere = 0;
    const auto stream = reinterpret_cast<cudaStream_t>(&anywhere);
    const int done = node.runtime->enqueue(descs.data(), &descs[inputs], in.data(), &out, nullptr, stream);
    if (!done && (stand_in_stream != stream || !stand_in_device_levels)) {
      std::fprintf(stderr, "the kernel got another stream, or no level sizes on the device\n");
      std::exit(3);
    }
    std::cout << configured << "\n"
              << said_first << "\n"
              << changed << "\n"
              << said_second << "\n"
              << done << "\n"
              << finder.log.take() << "\n"
              << bytes << "\n";
    std::cout.write(data[inputs].get(), static_cast<std::streamsize>(bytes));
  }
}

}  // namespace

int main(int count, char** arguments) {
  setLoggerFinder(&finder);
  const std::string what = count > 1 ? arguments[1] : "", op = count > 2 ? arguments[2] : "";
  if (what == "formats")
    formats(op);
  else if (what == "shapes")
    shapes(op);
  else if (what == "life")
    life(op);
  else if (what == "failing")
    failing(op);
  else if (what == "run")
    run();
  else
    return 64;
  return 0;
}
