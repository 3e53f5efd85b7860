# Tests of the house itself: include directions, good manners, the C interface, exported symbols, the package, the presets.
foreach(rule layering good_guest)
  add_test(NAME ${rule} COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${CMAKE_CURRENT_SOURCE_DIR}/${rule}.cmake)
  add_test(NAME ${rule}_finds_planted_violations
    COMMAND ${CMAKE_COMMAND} -DSELF_TEST=${CMAKE_CURRENT_BINARY_DIR}/planted_${rule} -P ${CMAKE_CURRENT_SOURCE_DIR}/${rule}.cmake)
endforeach()

# The C interface from C99; the padding check keeps option structs free of bytes that no initialiser reaches.
add_executable(capi_test capi_test.c)
target_link_libraries(capi_test PRIVATE dsinfer::dsinfer Threads::Threads)
target_compile_definitions(capi_test PRIVATE DSINFER_MINI_DIR="${PROJECT_SOURCE_DIR}/examples/mini")
target_compile_options(capi_test PRIVATE -pedantic -Wpadded)
set_target_properties(capi_test PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF)
add_test(NAME capi_test COMMAND capi_test)
set_tests_properties(capi_test PROPERTIES TIMEOUT 300)

# What the shared libraries export.
get_target_property(library_type dsinfer TYPE)
if(library_type STREQUAL "SHARED_LIBRARY")
  set(libraries $<TARGET_FILE:dsinfer>)
  if(TARGET dsinfer_mpi)
    list(APPEND libraries $<TARGET_FILE:dsinfer_mpi>)
  endif()
  if(TARGET dsinfer_cuda)
    list(APPEND libraries $<TARGET_FILE:dsinfer_cuda>)
  endif()
  add_test(NAME exported_symbols COMMAND ${CMAKE_COMMAND} "-DLIBRARIES=${libraries}" -DNM=${CMAKE_NM}
    -DHEADER=${PROJECT_SOURCE_DIR}/capi/dsinfer.h -P ${CMAKE_CURRENT_SOURCE_DIR}/symbols.cmake)
endif()

# An outside project, through the installed package and through add_subdirectory. The second builds the library once more: as release, but for -O1, which
# compiles in two thirds of the time; what is tested is that it configures, links, installs and runs with many ranks, not how fast.
set(consumer_flags "")
if(DSINFER_SANITIZE)
  list(JOIN DSINFER_SANITIZE "," consumer_flags)
  set(consumer_flags -fsanitize=${consumer_flags})
endif()
set(consumer ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DSOURCE=${PROJECT_SOURCE_DIR} -DLAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER})
add_test(NAME consumer_package COMMAND ${consumer} -DMODE=package -DTYPE=Debug -DWORK=${PROJECT_BINARY_DIR}/consumer/package
  "-DFLAGS=${consumer_flags}" -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/run.cmake)
add_test(NAME consumer_subdirectory COMMAND ${consumer} -DMODE=subdirectory -DTYPE=Release -DWORK=${PROJECT_BINARY_DIR}/consumer/subdirectory
  "-DOPTIONS=-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG;-DBUILD_SHARED_LIBS=OFF;-DDSINFER_MPI=${DSINFER_MPI};-DDSINFER_INSTALL=ON;-DDSINFER_EXAMPLES=ON"
  -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/run.cmake)
add_test(NAME consumer_static_package COMMAND ${consumer} -DMODE=package -DTYPE=Release -DWORK=${PROJECT_BINARY_DIR}/consumer/static_package
  -DBUILD=${PROJECT_BINARY_DIR}/consumer/subdirectory/build -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/run.cmake)
set_tests_properties(consumer_subdirectory PROPERTIES FIXTURES_SETUP static_build PROCESSORS 2 TIMEOUT 1500)  # its build takes all cores
set_tests_properties(consumer_static_package PROPERTIES FIXTURES_REQUIRED static_build)
# MPI's plug-ins leak, and are unloaded before the leak checker could name them; tests/mpi looks for leaks of ours.
set_tests_properties(consumer_package consumer_subdirectory consumer_static_package PROPERTIES LABELS consumer ENVIRONMENT "ASAN_OPTIONS=detect_leaks=0")

# The release program that those built, statically, on sixteen ranks: more than the cores of most machines that run this.
if(DSINFER_MPI AND DSINFER_EXAMPLES)
  find_package(MPI REQUIRED COMPONENTS C)
  add_test(NAME release_chat_16_ranks COMMAND ${MPIEXEC_EXECUTABLE} -n 16
    ${PROJECT_BINARY_DIR}/consumer/subdirectory/build/dsinfer/examples/example_chat --plan tp=2,pp=2,dp=4,ep=8
    --prompt "Hello! Who are you?" --prompt "Name three colours." --max-tokens 24 --json)
  set_tests_properties(release_chat_16_ranks PROPERTIES FIXTURES_REQUIRED static_build RUN_SERIAL ON TIMEOUT 120 LABELS consumer
    PASS_REGULAR_EXPRESSION "finish_reason.*finish_reason"
    ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;OMPI_MCA_mpi_yield_when_idle=1;OMPI_MCA_hwloc_base_binding_policy=none")
endif()

# What also runs under the thread sanitizer: ranks as threads, submit and cancel from other threads. Called when all tests are known.
add_custom_target(tsan_tests)
function(select_tsan_tests)
  foreach(name capi_test core_test read_queue_test world_test comm_test thread_pool_test engine_test engine_threads_test upload_test)
    if(TARGET ${name})
      add_dependencies(tsan_tests ${name})
      set_property(TEST ${name} APPEND PROPERTY LABELS tsan)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL select_tsan_tests)
