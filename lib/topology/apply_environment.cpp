// The one place of the library that writes into its host's environment, because the application asks for it.
#include <cstdlib>

#include "dsinfer/cluster.hpp"

namespace dsinfer {

int apply_environment(const Network& network) {
  int set = 0;
  for (const EnvironmentVariable& variable : network.environment) {
    if (variable.users || variable.name.empty() || variable.name.find('=') != variable.name.npos) continue;
    if (std::getenv(variable.name.c_str())) continue;
    set += ::setenv(variable.name.c_str(), variable.value.c_str(), 0) == 0;
  }
  return set;
}

}  // namespace dsinfer
