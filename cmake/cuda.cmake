# The CUDA language and toolkit, for libdsinfer_cuda. Needs nvcc, no GPU and no driver.
set(DSINFER_CUDA_ARCHITECTURES "80-real;90a-real" CACHE STRING "GPU architectures of libdsinfer_cuda: code for A100 (runs on 8.x) and H100/H200")
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(DSINFER_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(NOT DSINFER_NVCC)
    message(FATAL_ERROR "DSINFER_CUDA=ON: nvcc was found neither on PATH nor in /usr/local/cuda/bin; install the CUDA toolkit (12.8 or later), "
      "say where it is with -DCMAKE_CUDA_COMPILER=/path/to/nvcc, or configure with DSINFER_CUDA=OFF")
  endif()
  set(CMAKE_CUDA_COMPILER ${DSINFER_NVCC})
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${DSINFER_CUDA_ARCHITECTURES})
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "DSINFER_CUDA=ON: ${CMAKE_CUDA_COMPILER} is CUDA ${CMAKE_CUDA_COMPILER_VERSION}, expected 12.8 or later")
endif()
find_package(CUDAToolkit 12.8 REQUIRED)
message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${DSINFER_CUDA_ARCHITECTURES}")

# C++20 for a target's CUDA sources. CMake below 3.26 knows no such dialect and drops it without a word.
function(dsinfer_cuda_target target architectures)
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED OFF CUDA_ARCHITECTURES "${architectures}"
    CUDA_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
  if(CMAKE_VERSION VERSION_LESS 3.26)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  endif()
endfunction()
