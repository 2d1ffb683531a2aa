# The CUDA backend.
#
#   RH_CUDA = AUTO (ON when nvcc is found and no sanitizer is asked for), ON, OFF
#
# kernels/cuda/*.cu are compiled twice, both times as an object library to which a program links or not:
#   rh_kernels_cuda      by nvcc, for GPUs, when RH_CUDA is on
#   rh_kernels_cuda_emu  by g++, over the emulated runtime of tests/support/cuda_emu, for the tests
set(RH_CUDA "AUTO" CACHE STRING "GPU backend: AUTO (when nvcc is found), ON, OFF")
set_property(CACHE RH_CUDA PROPERTY STRINGS AUTO ON OFF)

set(RH_CUDA_ON OFF)
if(RH_CUDA STREQUAL "ON" OR (RH_CUDA STREQUAL "AUTO" AND RH_SANITIZE STREQUAL ""))
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(RH_CUDA_ON ON)
  elseif(NOT RH_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "RH_CUDA is ${RH_CUDA} and no nvcc was found; put it on PATH, set CMAKE_CUDA_COMPILER, or take -DRH_CUDA=OFF")
  endif()
endif()

if(RH_CUDA_ON)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    # 90a: the instructions of Hopper alone (wgmma); other GPUs take the PTX of 80.
    set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "no CUDA: the GPU backend is left out")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g")
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
set(CMAKE_CUDA_FLAGS_DEBUG "-O1 -g -lineinfo")

# rh_options for C++ and for nvcc.
add_library(rh_cuda_options INTERFACE)
target_compile_definitions(rh_cuda_options INTERFACE _POSIX_C_SOURCE=200809L)
target_compile_options(rh_cuda_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-g -fvisibility=hidden -ffp-contract=off -fno-math-errno -Wall -Wextra
    -Wno-unknown-pragmas -Wno-unused-parameter>
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Xcompiler=-fvisibility=hidden,-Wall,-Wextra>)
if(RH_WERROR)
  target_compile_options(rh_cuda_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(RH_SANITIZE STREQUAL "address")
  target_compile_options(rh_cuda_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(rh_cuda_options INTERFACE -fsanitize=address,undefined)
endif()
