/// Command lines of the examples: long options over getopt_long, each with its help line and what to do with its value.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace example {

/// Added in the order in which --help lists them.
class OptionList {
 public:
  OptionList(std::string usage, std::string about) : usage_(std::move(usage)), about_(std::move(about)) {}
  void flag(const char* name, const char* help, bool& value);
  void text(const char* name, const char* argument, const char* help, std::string& value);
  void texts(const char* name, const char* argument, const char* help, std::vector<std::string>& values);  ///< may be given several times
  void integer(const char* name, const char* argument, const char* help, int64_t& value, int64_t least = 0);
  void number(const char* name, const char* argument, const char* help, double& value);
  void positional(const char* argument, const char* help, std::string& value);  ///< the one word without a name; may be left out
  void call(const char* name, const char* argument, const char* help, std::function<void(const std::string&)> take);

  /// False after --help, which it prints. Throws dsinfer::Error naming the option and what was expected.
  bool parse(int argc, char** argv, bool print_help) const;
  std::string help() const;

 private:
  struct Entry {
    std::string name, argument, help;  ///< no argument: a flag
    std::function<void(const std::string&)> take;
  };
  std::string usage_, about_;
  std::vector<Entry> entries_;
  Entry positional_;  ///< its name is the argument's
};

/// "1,2,3". Throws dsinfer::Error naming `option` and the piece that is no token id.
std::vector<int32_t> parse_ids(std::string_view text, const std::string& option);

}  // namespace example
