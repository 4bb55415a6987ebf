# Defines the TensorRT plugin once for each TensorRT major whose headers are found: targets msda_trt10 and msda_trt11,
# and msda_trt10_static and msda_trt11_static that register themselves. Sets MSDA_TRT10_WHY and MSDA_TRT11_WHY to a
# sentence where there is no target, MSDA_TRT10_VERSION and MSDA_TRT11_VERSION ("10.14", of the headers) where there is.
#
# ADAPTER_TENSORRT_INCLUDE  folders that hold NvInferRuntime.h, separated by ':' or ';' (setting, or environment variable)
# ADAPTER_PYTHON            a Python whose installed packages may bring headers (the wheel kernel-lens does)
# Needs the target msda_cuda_objects of msda/cuda.cmake, or its MSDA_CUDA_WHY.
set(ADAPTER_TENSORRT_INCLUDE "" CACHE STRING "Folders with NvInferRuntime.h, of one or more TensorRT majors")
set(ADAPTER_PYTHON "" CACHE FILEPATH "Python whose packages may bring TensorRT's headers")

# The folders to look into: those asked for, then where packages, archives and wheels put TensorRT.
function(list_tensorrt_folders result)
  set(folders "${ADAPTER_TENSORRT_INCLUDE}")
  if(NOT folders)
    set(folders "$ENV{ADAPTER_TENSORRT_INCLUDE}")
  endif()
  string(REPLACE ":" ";" folders "${folders}")
  foreach(folder IN LISTS folders)
    if(NOT EXISTS "${folder}/NvInferRuntime.h" OR NOT EXISTS "${folder}/NvInferVersion.h")
      message(FATAL_ERROR "ADAPTER_TENSORRT_INCLUDE: ${folder} does not hold NvInferRuntime.h and NvInferVersion.h; "
                          "name the include folder of a TensorRT, or leave the setting out.")
    endif()
  endforeach()
  file(GLOB archives "/usr/local/[Tt]ensor[Rr][Tt]*/include" "/opt/[Tt]ensor[Rr][Tt]*/include")
  list(APPEND folders "/usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu" "/usr/include" "/usr/local/include" ${archives})
  foreach(python IN ITEMS "${ADAPTER_PYTHON}" "$ENV{VIRTUAL_ENV}/bin/python")
    if(EXISTS "${python}")
      execute_process(COMMAND "${python}" -c "import sysconfig; print(sysconfig.get_path('purelib'))"
                      OUTPUT_VARIABLE packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
      list(APPEND folders "${packages}/kernel_lens/include/tensorrt")
    endif()
  endforeach()
  set(${result} "${folders}" PARENT_SCOPE)
endfunction()

# "10" and "10.14" of the TensorRT whose headers lie in `folder`; empty where there are none.
function(read_tensorrt_version folder major_result version_result)
  set(major "")
  set(minor "")
  if(EXISTS "${folder}/NvInferVersion.h" AND EXISTS "${folder}/NvInferRuntime.h")
    # "#define NV_TENSORRT_MAJOR 10", or the same by way of TRT_MAJOR_ENTERPRISE
    file(STRINGS "${folder}/NvInferVersion.h" lines REGEX "#define (NV_TENSORRT|TRT)_(MAJOR|MINOR)(_ENTERPRISE)? +[0-9]")
    foreach(line IN LISTS lines)
      if(line MATCHES "_(MAJOR|MINOR)(_ENTERPRISE)? +([0-9]+)")
        if(CMAKE_MATCH_1 STREQUAL "MAJOR")
          set(major "${CMAKE_MATCH_3}")
        else()
          set(minor "${CMAKE_MATCH_3}")
        endif()
      endif()
    endforeach()
  endif()
  set(${major_result} "${major}" PARENT_SCOPE)
  set(${version_result} "${major}.${minor}" PARENT_SCOPE)
endfunction()

# One library of the plugin. It links no libnvinfer: the TensorRT that opens it brings that. The CUDA and C++ runtimes
# are linked in, and kept in by the list of exports.
function(add_tensorrt_library target objects door include)
  set(here "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
  add_library(${target} SHARED "${here}/${door}.cpp")
  target_include_directories(${target} SYSTEM PRIVATE "${include}" ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${target} PRIVATE ${objects} msda_cuda_objects CUDA::cudart_static ${CMAKE_DL_LIBS})
  target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc "-Wl,--version-script=${here}/${door}.map"
                      -Wl,--exclude-libs,ALL -Wl,--no-undefined -Wl,--gc-sections)
  set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX LINK_DEPENDS "${here}/${door}.map")
endfunction()

function(add_tensorrt_plugin major include)
  set(here "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
  set(objects msda_trt${major}_objects)
  add_library(${objects} OBJECT "${here}/messages.cpp" "${here}/tensors.cpp" "${here}/msda_plugin.cpp"
              "${here}/creators.cpp")
  # SYSTEM: TensorRT's headers are not free of warnings. They include the CUDA runtime's.
  target_include_directories(${objects} SYSTEM PRIVATE "${include}" ${CUDAToolkit_INCLUDE_DIRS})
  add_tensorrt_library(msda_trt${major} ${objects} exports "${include}")
  add_tensorrt_library(msda_trt${major}_static ${objects} self_register "${include}")
  # TensorRT's registry holds its creators, so it may never be unloaded.
  target_link_options(msda_trt${major}_static PRIVATE -Wl,-z,nodelete)
endfunction()

set(tensorrt_folders "")
if(TARGET msda_cuda_objects)
  find_package(CUDAToolkit QUIET)
  list_tensorrt_folders(tensorrt_folders)
endif()
foreach(major IN ITEMS 10 11)
  unset(MSDA_TRT${major}_VERSION)
  set(MSDA_TRT${major}_WHY "no TensorRT ${major} headers were found; set ADAPTER_TENSORRT_INCLUDE to the folder that holds \
NvInferRuntime.h")
  if(NOT TARGET msda_cuda_objects)
    set(MSDA_TRT${major}_WHY "${MSDA_CUDA_WHY}")
  elseif(NOT TARGET CUDA::cudart_static)
    set(MSDA_TRT${major}_WHY "the CUDA toolkit here has no libcudart_static.a; install its cudart development package")
  endif()
endforeach()
foreach(folder IN LISTS tensorrt_folders)
  read_tensorrt_version("${folder}" major version)
  if(major MATCHES "^1[01]$" AND TARGET CUDA::cudart_static AND NOT TARGET msda_trt${major})
    add_tensorrt_plugin(${major} "${folder}")
    set(MSDA_TRT${major}_WHY "")
    set(MSDA_TRT${major}_VERSION "${version}")
  endif()
endforeach()
