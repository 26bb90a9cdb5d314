# find_package(PyConv) -> PyConv::pyconv, the C ABI (pyconv/pyconv.h) of the installed package.
get_filename_component(_pyconv_package "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT TARGET PyConv::pyconv)
  add_library(PyConv::pyconv SHARED IMPORTED)
  set_target_properties(PyConv::pyconv PROPERTIES
    IMPORTED_LOCATION
      "${_pyconv_package}/${CMAKE_SHARED_LIBRARY_PREFIX}pyconv${CMAKE_SHARED_LIBRARY_SUFFIX}"
    INTERFACE_INCLUDE_DIRECTORIES "${_pyconv_package}/include")
endif()
unset(_pyconv_package)
