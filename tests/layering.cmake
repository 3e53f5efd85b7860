# Include directions: a module may include its own files and those of the modules listed for it; a public header counts as its module.
#   cmake -DROOT=<source tree> -P layering.cmake              checks the tree
#   cmake -DSELF_TEST=<scratch folder> -P layering.cmake      checks that planted violations are found
cmake_minimum_required(VERSION 3.25)
set(core_may)
set(storage_may core)
set(config_may core)
set(topology_may core)
set(text_may core)
set(plan_may config topology core)
set(backend_may core)
set(comm_may plan config core)  # config: dsinfer/plan.hpp speaks of ModelConfig
set(weights_may storage backend comm plan config core)
set(cache_may backend comm plan config core)
set(model_may storage backend comm weights cache plan config core)
set(engine_may model backend comm weights cache plan config topology text core)
set(modules core storage config topology text plan backend comm weights cache model engine)

# dsinfer/<header>.hpp → module
foreach(pair error=core export=core version=core world=core config=config cluster=topology tokenizer=text plan=plan solver=plan loader=weights
    forward=model engine=engine dsinfer=engine)
  string(REPLACE "=" ";" pair ${pair})
  list(GET pair 0 header)
  list(GET pair 1 module)
  set(module_of_${header} ${module})
endforeach()

set(violations "")
macro(violation file text)
  string(APPEND violations "  ${file}: ${text}\n")
endmacro()

# Includes of one file, checked for `module` (or "outside": capi and examples, which see public headers alone).
function(check_file file module)
  file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "include[ \t]*[<\"]([^>\"]+)[>\"]")
      continue()
    endif()
    set(path ${CMAKE_MATCH_1})
    get_filename_component(extension ${file} LAST_EXT)
    if(path STREQUAL "mpi.h" AND NOT file MATCHES "^lib/comm/mpi_" AND NOT file MATCHES "^examples/")
      violation(${file} "includes mpi.h; only lib/comm/mpi_* may")
    endif()
    if(path MATCHES "^(cuda|cublas|cudnn|nccl)[a-zA-Z0-9_]*\\.h(pp)?$" AND NOT file MATCHES "^lib/backend/cuda/")
      violation(${file} "includes ${path}; only lib/backend/cuda may")
    endif()
    if(path MATCHES "^backend/(cuda|cpu)/")
      set(owner "^lib/backend/${CMAKE_MATCH_1}/")
      if(NOT file MATCHES ${owner} AND NOT file STREQUAL "lib/backend/registry.cpp")
        violation(${file} "includes ${path}; a backend is known by backend.hpp alone")
      endif()
    endif()
    if(path MATCHES "^(fmt|nlohmann)/" AND extension STREQUAL ".hpp" AND NOT file STREQUAL "lib/core/json.hpp")
      violation(${file} "includes ${path}; fmt stays in .cpp files, JSON comes through core/json.hpp")
    endif()
    if(file MATCHES "^include/" AND path MATCHES "^(Eigen|mpi|cuda|nccl|pcre2|gtest|hwloc|infiniband)")
      violation(${file} "includes ${path}; public headers use std alone")
    endif()
    if(path MATCHES "^dsinfer/([a-z_0-9]+)\\.hpp$")
      if(NOT DEFINED module_of_${CMAKE_MATCH_1})
        violation(${file} "includes ${path}, which tests/layering.cmake does not place in a module; add it there")
        continue()
      endif()
      set(target ${module_of_${CMAKE_MATCH_1}})
      if(module STREQUAL "outside")
        continue()
      endif()
    elseif(path MATCHES "^([a-z_0-9]+)/" AND CMAKE_MATCH_1 IN_LIST modules)
      set(target ${CMAKE_MATCH_1})
    else()
      continue()
    endif()
    if(module STREQUAL "outside")
      violation(${file} "includes ${path}; capi and examples see public headers alone")
    elseif(NOT target STREQUAL module AND NOT target IN_LIST ${module}_may)
      violation(${file} "includes ${path} of module ${target}; ${module} may include: ${module} ${${module}_may}")
    endif()
  endforeach()
  set(violations "${violations}" PARENT_SCOPE)
endfunction()

function(check_tree)
  set(count 0)
  foreach(top lib capi examples include)
    file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/${top}/*.hpp ${ROOT}/${top}/*.cpp ${ROOT}/${top}/*.h ${ROOT}/${top}/*.c
      ${ROOT}/${top}/*.cu ${ROOT}/${top}/*.cuh)
    foreach(file IN LISTS files)
      if(top STREQUAL "lib")
        if(NOT file MATCHES "^lib/([a-z_0-9]+)/")
          continue()
        endif()
        set(module ${CMAKE_MATCH_1})
        if(NOT module IN_LIST modules)
          violation(${file} "module ${module} has no line in tests/layering.cmake")
          continue()
        endif()
      elseif(top STREQUAL "include")
        get_filename_component(name ${file} NAME_WE)
        if(NOT DEFINED module_of_${name})
          violation(${file} "is in no module; add it to tests/layering.cmake")
          continue()
        endif()
        set(module ${module_of_${name}})
      else()
        set(module outside)
      endif()
      check_file(${file} ${module})
      math(EXPR count "${count} + 1")
    endforeach()
  endforeach()
  if(violations)
    message(FATAL_ERROR "include directions:\n${violations}")
  endif()
  if(count EQUAL 0)
    message(FATAL_ERROR "no source file under ${ROOT}")
  endif()
  message(STATUS "${count} files keep the include directions")
endfunction()

if(NOT SELF_TEST)
  check_tree()
  return()
endif()

# file | its line | whether it must be refused
foreach(planted
    "lib/core/a.cpp|#include \"model/model.hpp\"|1"
    "lib/core/a.hpp|#include \"dsinfer/engine.hpp\"|1"
    "lib/backend/cpu/a.cpp|#include \"comm/comm.hpp\"|1"
    "lib/model/a.cpp|#include \"backend/cuda/device.hpp\"|1"
    "lib/backend/cuda/a.cu|#include \"backend/cpu/kernels.hpp\"|1"
    "lib/backend/cuda/hopper/a.cu|#include \"weights/layout.hpp\"|1"
    "lib/comm/a.cpp|#include <cuda_runtime_api.h>|1"
    "lib/backend/cuda/a.cu|#include <cuda_fp8.h>|0"
    "lib/backend/cuda/hopper/a.cu|#include \"backend/cuda/kernels.hpp\"|0"
    "lib/text/a.cpp|  #  include <dsinfer/config.hpp>|1"
    "lib/model/a.hpp|#include <nlohmann/json.hpp>|1"
    "lib/model/a.cpp|#include <mpi.h>|1"
    "lib/novel/a.cpp|#include \"core/json.hpp\"|1"
    "capi/a.cpp|#include \"core/json.hpp\"|1"
    "examples/a.cpp|#include \"engine/scheduler.hpp\"|1"
    "include/dsinfer/world.hpp|#include \"dsinfer/plan.hpp\"|1"
    "include/dsinfer/novel.hpp|#include <vector>|1"
    "lib/engine/a.cpp|#include \"model/model.hpp\"|0"
    "lib/model/a.cpp|#include \"core/json.hpp\"|0"
    "examples/a.cpp|#include \"dsinfer/engine.hpp\"|0")
  string(REPLACE "|" ";" planted "${planted}")
  list(GET planted 0 file)
  list(GET planted 1 line)
  list(GET planted 2 refused)
  file(REMOVE_RECURSE ${SELF_TEST})
  file(WRITE ${SELF_TEST}/${file} "${line}\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${SELF_TEST} -P ${CMAKE_CURRENT_LIST_FILE} RESULT_VARIABLE code OUTPUT_QUIET ERROR_VARIABLE err)
  if(refused AND (code EQUAL 0 OR NOT err MATCHES "include directions"))
    message(FATAL_ERROR "not found: ${line} in ${file}\n${err}")
  elseif(NOT refused AND NOT code EQUAL 0)
    message(FATAL_ERROR "wrongly refused: ${line} in ${file}\n${err}")
  endif()
endforeach()
file(REMOVE_RECURSE ${SELF_TEST})
