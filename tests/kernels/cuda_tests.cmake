# rh_add_cuda_test(NAME VARIANT SOURCES ... LINK ...): a program without cmocka; 77 is a skip. VARIANT is the
# folder that includes this file, emu or gpu: a .cu file has one language per folder.
get_property(RH_KERNELS_DIR GLOBAL PROPERTY RH_KERNELS_DIR)
function(rh_add_cuda_test name variant)
  cmake_parse_arguments(T "" "" "SOURCES;LINK;ARGS" ${ARGN})
  list(TRANSFORM T_SOURCES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/../)
  if(variant STREQUAL "emu")
    set(language CXX)
  else()
    set(language CUDA)
  endif()
  set(cuda_sources ${T_SOURCES})
  list(FILTER cuda_sources INCLUDE REGEX "\\.cu$")
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE ${language})
  add_executable(${name}_${variant} ${T_SOURCES})
  set_target_properties(${name}_${variant} PROPERTIES LINKER_LANGUAGE ${language})
  target_include_directories(${name}_${variant} PRIVATE ${RH_KERNELS_DIR})
  target_link_libraries(${name}_${variant} PRIVATE ${T_LINK} $<$<COMPILE_LANGUAGE:C>:rh_options> rh_cuda_options)
  add_test(NAME ${name}_${variant} COMMAND ${name}_${variant} ${T_ARGS})
  set_tests_properties(${name}_${variant} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS "cuda;${variant}")
endfunction()

# The ops that are written for CUDA.
set(RH_PARITY_OPS matmul expert_matmul attention rms_norm head_norm head_gate gated_norm route dispatch swiglu combine mse
  gather_rows count_tokens conv_silu delta_inputs delta_rule fake_quant)
