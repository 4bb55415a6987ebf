"""ONNX Runtime's CUDA provider on a real GPU: arrays of PyTorch in and out, and CUDA graphs. Skipped without one."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from adapter_engines import Engine, device

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu"
    ),
    pytest.mark.skipif(device.unusable() is not None, reason="needs cuda-bindings and a driver"),
]


@pytest.mark.parametrize("graph", [False, True])
def test_tensors_on_the_gpu_are_read_and_given_there(make_toy, graph):
    toy = make_toy()
    images = [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with Engine.load(toy.path) as engine:
        wanted = [engine.infer({"image": image.numpy()})["logits"] for image in images]
    with Engine.load(toy.path, provider="cuda", cuda_graph=graph) as engine:
        found = [engine.infer({"image": image.cuda()})["logits"] for image in images]
        for array, truth in zip(found, wanted, strict=True):
            tensor = torch.from_dlpack(array)
            assert tensor.is_cuda
            assert tensor.data_ptr() == array.pointer
            assert np.abs(tensor.cpu().numpy() - truth).max() < 2e-3 * np.abs(truth).max()  # TF32
        on_host = engine.infer({"image": images[0].numpy()})["logits"]
        np.testing.assert_allclose(on_host, torch.from_dlpack(found[0]).cpu().numpy(), rtol=1e-4, atol=1e-4)
        with engine.bound({"image": images[1].cuda()}) as bound:
            bound.run()
            assert bound.graph is graph
            np.testing.assert_allclose(bound.numpy()["logits"], wanted[1], atol=2e-3 * np.abs(wanted[1]).max())
