# Installation and the package: libraries, headers, CMake config with components, pkg-config file, examples and the shipped model.
option(DSINFER_INSTALL "Generate install rules" ${PROJECT_IS_TOP_LEVEL})
if(NOT DSINFER_INSTALL)
  return()
endif()
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/dsinfer)
get_target_property(library_type dsinfer TYPE)
if(library_type STREQUAL "SHARED_LIBRARY")
  set(package_shared ON)
else()
  set(package_shared OFF)
endif()

install(TARGETS dsinfer EXPORT dsinfer-core
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT dsinfer-core NAMESPACE dsinfer:: FILE dsinfer-core-targets.cmake DESTINATION ${package_dir})

if(TARGET dsinfer_mpi)
  set_target_properties(dsinfer_mpi PROPERTIES EXPORT_NAME mpi)
  install(TARGETS dsinfer_mpi EXPORT dsinfer-mpi
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(EXPORT dsinfer-mpi NAMESPACE dsinfer:: FILE dsinfer-mpi-targets.cmake DESTINATION ${package_dir})
endif()

if(TARGET dsinfer_cuda)
  install(TARGETS dsinfer_cuda EXPORT dsinfer-cuda
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(EXPORT dsinfer-cuda NAMESPACE dsinfer:: FILE dsinfer-cuda-targets.cmake DESTINATION ${package_dir})
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/dsinfer-config.cmake.in ${PROJECT_BINARY_DIR}/dsinfer-config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# 0.x: a minor version may break; from 1.0 on the major version counts.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dsinfer-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/dsinfer-config.cmake ${PROJECT_BINARY_DIR}/dsinfer-config-version.cmake DESTINATION ${package_dir})

configure_file(${CMAKE_CURRENT_LIST_DIR}/dsinfer.pc.in ${PROJECT_BINARY_DIR}/dsinfer.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dsinfer.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(DSINFER_EXAMPLES)
  foreach(example chat plan score tokenize topology)
    if(TARGET example_${example})
      install(TARGETS example_${example} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    endif()
  endforeach()
  if(EXISTS ${PROJECT_SOURCE_DIR}/examples/mini/config.json)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples/mini DESTINATION ${CMAKE_INSTALL_DATADIR}/dsinfer
      PATTERN training EXCLUDE PATTERN __pycache__ EXCLUDE)
  endif()
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
