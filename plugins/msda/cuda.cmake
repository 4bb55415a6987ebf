# Defines msda_cuda_objects, the CUDA kernels and msda/check.cpp as position-independent objects, for
# ADAPTER_CUDA_ARCHITECTURES ("80;90": machine code for each, and PTX of the last). Link CUDA::cudart_static with them.
# Where it cannot, it defines nothing and sets MSDA_CUDA_WHY to a sentence that says why.
include(CheckLanguage)

set(MSDA_CUDA_SOURCES cuda_run.cu cuda_fp32.cu cuda_fp16.cu cuda_bf16.cu check.cpp)
list(TRANSFORM MSDA_CUDA_SOURCES PREPEND "${CMAKE_CURRENT_LIST_DIR}/")

# Sets `result` to what is wrong with the architectures that are asked for, or to "".
function(check_cuda_architectures result)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
  set(unknown "")
  foreach(architecture IN LISTS ADAPTER_CUDA_ARCHITECTURES)
    if(NOT architecture MATCHES "^[1-9][0-9]+[af]?$")
      message(FATAL_ERROR "ADAPTER_CUDA_ARCHITECTURES=${ADAPTER_CUDA_ARCHITECTURES}: ${architecture} is no compute "
                          "capability; write 80;90 for 8.0 and 9.0.")
    endif()
    if(architecture LESS 80)
      message(FATAL_ERROR "ADAPTER_CUDA_ARCHITECTURES=${ADAPTER_CUDA_ARCHITECTURES}: the kernels need compute "
                          "capability 80 or above; leave ${architecture} out.")
    endif()
    if(known AND NOT known MATCHES "sm_${architecture}[\n]")
      list(APPEND unknown ${architecture})
    endif()
  endforeach()
  set(sentence "")
  if(NOT ADAPTER_CUDA_ARCHITECTURES)
    set(sentence "ADAPTER_CUDA_ARCHITECTURES is empty; name at least one compute capability, as in 80;90")
  elseif(unknown)
    list(JOIN unknown ", " unknown)
    set(sentence "nvcc ${CMAKE_CUDA_COMPILER_VERSION} does not know compute capability ${unknown}; take a newer CUDA \
toolkit, or leave it out of ADAPTER_CUDA_ARCHITECTURES")
  endif()
  set(${result} "${sentence}" PARENT_SCOPE)
endfunction()

set(MSDA_CUDA_WHY "")
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)  # an earlier "not found" must not outlive the installation of nvcc
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # each target names its own; without this CMake asks for a GPU or takes its default
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(MSDA_CUDA_WHY "no working nvcc was found; put it on PATH or set CUDACXX")
else()
  enable_language(CUDA)
  check_cuda_architectures(MSDA_CUDA_WHY)
endif()

if(NOT MSDA_CUDA_WHY)
  list(TRANSFORM ADAPTER_CUDA_ARCHITECTURES APPEND "-real" OUTPUT_VARIABLE MSDA_CUDA_TARGETS)
  list(GET ADAPTER_CUDA_ARCHITECTURES -1 MSDA_CUDA_LAST)
  list(JOIN ADAPTER_CUDA_ARCHITECTURES "," MSDA_CUDA_NAMES)

  add_library(msda_cuda_objects OBJECT ${MSDA_CUDA_SOURCES})
  set_target_properties(
    msda_cuda_objects
    PROPERTIES CUDA_ARCHITECTURES "${MSDA_CUDA_TARGETS};${MSDA_CUDA_LAST}-virtual"
               CUDA_RUNTIME_LIBRARY Static
               CUDA_SEPARABLE_COMPILATION OFF
               CUDA_STANDARD 17
               CUDA_STANDARD_REQUIRED ON
               CUDA_EXTENSIONS OFF
               CUDA_VISIBILITY_PRESET hidden
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               POSITION_INDEPENDENT_CODE ON)
  target_include_directories(msda_cuda_objects PUBLIC "${CMAKE_CURRENT_LIST_DIR}")
  target_compile_definitions(msda_cuda_objects PRIVATE "MSDA_CUDA_ARCHITECTURES=\"${MSDA_CUDA_NAMES}+ptx\"")
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    # Six machine codes of many kernels: compressed for size, the library is a fraction, and unpacking costs a few ms once.
    target_compile_options(msda_cuda_objects PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
  endif()
endif()
