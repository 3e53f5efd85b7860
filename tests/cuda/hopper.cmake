# The Hopper kernels alone, against double precision. They need a GPU of compute capability 9.0 and are skipped with a word elsewhere.
foreach(test attention edges layer linear prefill rows)
  add_executable(hopper_${test}_test cuda/hopper_${test}_test.cu)
  dsinfer_cuda_target(hopper_${test}_test 90a-real)
  # The options of this folder speak to gcc.
  set_target_properties(hopper_${test}_test PROPERTIES COMPILE_OPTIONS "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${DSINFER_WERROR}>>:SHELL:-Werror all-warnings>"
    CUDA_RUNTIME_LIBRARY Static LINKER_LANGUAGE CXX)
  target_include_directories(hopper_${test}_test PRIVATE ${PROJECT_SOURCE_DIR}/lib)
  target_link_libraries(hopper_${test}_test PRIVATE dsinfer_cuda_hopper CUDA::cudart_static GTest::gtest GTest::gtest_main)
  add_test(NAME hopper_${test}_test COMMAND hopper_${test}_test)
  set_tests_properties(hopper_${test}_test PROPERTIES TIMEOUT 300 LABELS gpu SKIP_REGULAR_EXPRESSION "no GPU: skipped")
endforeach()

# The blocks that the model runs on, through the backend.
add_executable(hopper_blocks_test cuda/hopper_blocks_test.cu)
dsinfer_cuda_target(hopper_blocks_test 90a-real)
set_target_properties(hopper_blocks_test PROPERTIES COMPILE_OPTIONS "-std=c++20;$<$<BOOL:${DSINFER_WERROR}>:SHELL:-Werror all-warnings>"
  CUDA_RUNTIME_LIBRARY Static LINKER_LANGUAGE CXX)
target_include_directories(hopper_blocks_test PRIVATE ${PROJECT_SOURCE_DIR}/lib)
target_link_libraries(hopper_blocks_test PRIVATE dsinfer::dsinfer CUDA::cudart_static GTest::gtest GTest::gtest_main)
add_test(NAME hopper_blocks_test COMMAND hopper_blocks_test)
set_tests_properties(hopper_blocks_test PROPERTIES TIMEOUT 300 LABELS gpu SKIP_REGULAR_EXPRESSION "no GPU: skipped")
