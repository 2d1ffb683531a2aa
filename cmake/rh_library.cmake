# Targets and the include law.
#
#   rh_add_library(NAME LAYER layer SOURCES ... HEADERS ... DEPENDS ... [LIBRARIES ...] [PRIVATE ...])
#
# makes the static library rh_NAME. Its public HEADERS are reachable as "NAME/header.h", and only for targets that
# name it under DEPENDS: every library has an include root of its own, so a header that no dependency covers is
# "No such file". A dependency against the ladder stops the configure step.
# LIBRARIES: third-party targets that leak into the headers; PRIVATE: those that do not.

set(RH_RANK_proto 0)
set(RH_RANK_core 1)
set(RH_RANK_families 2)
set(RH_RANK_kernels 3)
set(RH_RANK_models 4)
set(RH_RANK_stages 5)
set(RH_RANK_orchestrator 6)
# The orchestrator schedules; it never sees a number.
set(RH_ORCHESTRATOR_MAY_USE base daemon recipe store wire proto scheduler timeline database factory upkeep http_api ctl)

function(rh_check_ladder name layer)
  foreach(dep IN LISTS ARGN)
    if(NOT TARGET rh_${dep})
      message(FATAL_ERROR "rh_${name} depends on rh_${dep}, which is not defined above it")
    endif()
    get_target_property(dep_layer rh_${dep} RH_LAYER)
    if(RH_RANK_${dep_layer} GREATER RH_RANK_${layer})
      message(FATAL_ERROR "the ladder forbids rh_${name} (${layer}) to use rh_${dep} (${dep_layer})")
    endif()
    if(layer STREQUAL "orchestrator" AND NOT dep IN_LIST RH_ORCHESTRATOR_MAY_USE)
      message(FATAL_ERROR "the orchestrator may not use rh_${dep}")
    endif()
  endforeach()
endfunction()

function(rh_add_library name)
  cmake_parse_arguments(L "" "LAYER" "SOURCES;HEADERS;DEPENDS;LIBRARIES;PRIVATE" ${ARGN})
  rh_check_ladder(${name} ${L_LAYER} ${L_DEPENDS})
  add_library(rh_${name} STATIC ${L_SOURCES})
  set_target_properties(rh_${name} PROPERTIES RH_LAYER ${L_LAYER} LINKER_LANGUAGE C)
  set(root ${CMAKE_BINARY_DIR}/inc/${name})
  file(MAKE_DIRECTORY ${root}/${name})
  foreach(header IN LISTS L_HEADERS)
    get_filename_component(leaf ${header} NAME)
    get_filename_component(full ${header} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
    file(CREATE_LINK ${full} ${root}/${name}/${leaf} SYMBOLIC)
    set_property(GLOBAL APPEND PROPERTY RH_PUBLIC_HEADERS ${name}/${leaf})
  endforeach()
  target_include_directories(rh_${name} PUBLIC ${root})
  list(TRANSFORM L_DEPENDS PREPEND rh_)
  target_link_libraries(rh_${name} PUBLIC ${L_DEPENDS} ${L_LIBRARIES} PRIVATE ${L_PRIVATE} rh_options)
endfunction()

# rh_add_program(NAME LAYER layer SOURCES ... DEPENDS ... [LIBRARIES ...]): an executable in build/bin.
function(rh_add_program name)
  cmake_parse_arguments(P "" "LAYER" "SOURCES;DEPENDS;LIBRARIES" ${ARGN})
  rh_check_ladder(${name} ${P_LAYER} ${P_DEPENDS})
  add_executable(${name} ${P_SOURCES})
  list(TRANSFORM P_DEPENDS PREPEND rh_)
  target_link_libraries(${name} PRIVATE ${P_DEPENDS} ${P_LIBRARIES} rh_options)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# rh_add_test(NAME SOURCES ... DEPENDS ... [LABELS ...] [TIMEOUT s] [ARGS ...]): a cmocka program run by ctest.
# RH_SOURCE_DIR and RH_BIN_DIR reach it as macros. Exit code 77 is a counted skip.
function(rh_add_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;DEPENDS;LIBRARIES;LABELS;ARGS" ${ARGN})
  add_executable(${name} ${T_SOURCES})
  list(TRANSFORM T_DEPENDS PREPEND rh_)
  target_link_libraries(${name} PRIVATE ${T_DEPENDS} ${T_LIBRARIES} PkgConfig::CMOCKA rh_options)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/support)
  target_compile_definitions(${name} PRIVATE RH_SOURCE_DIR="${CMAKE_SOURCE_DIR}" RH_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  add_test(NAME ${name} COMMAND ${name} ${T_ARGS} WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}")
  # An allocation that must fail, fails; it does not end the test.
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "ASAN_OPTIONS=allocator_may_return_null=1")
endfunction()
