#include <iostream>
#include <string>
#include <vector>

#include "agent/kubectl/command.h"

int main(int argc, char** argv) {
  return espalier::kubectl::RunCommand(
      std::vector<std::string>(argv + 1, argv + argc), std::cout, std::cerr);
}
