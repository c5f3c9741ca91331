# Included into every CMake project of the workspace (CMAKE_PROJECT_INCLUDE) when ROS 2 comes from PyPI
# wheels: their exported targets name include folders of the machine that built the wheels, and CMake
# refuses imported targets whose include folders do not exist. Drop those folders, at the end of the
# configuration, when every package has been found. The include folders that matter are relative to
# the wheel and stay.
function(drop_missing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      set(present "")
      foreach(folder IN LISTS folders)
        if(NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")
          list(APPEND present "${folder}")
        endif()
      endforeach()
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${present}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_missing_includes)
