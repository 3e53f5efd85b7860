#include "common/options.hpp"

#include <getopt.h>

#include <charconv>
#include <cmath>
#include <cstdio>

#include "dsinfer/error.hpp"

namespace example {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw dsinfer::Error(dsinfer::Error::invalid_argument, what + " (see --help)"); }

template <class T> T parse_number(std::string_view text, const std::string& option, const char* expected) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) refuse(option + " \"" + std::string(text) + "\": expected " + expected);
  return value;
}

}  // namespace

void OptionList::call(const char* name, const char* argument, const char* help, std::function<void(const std::string&)> take) {
  entries_.push_back({name, argument ? argument : "", help, std::move(take)});
}
void OptionList::positional(const char* argument, const char* help, std::string& value) {
  positional_ = {argument, "", help, [&value](const std::string& given) { value = given; }};
}
void OptionList::flag(const char* name, const char* help, bool& value) {
  call(name, nullptr, help, [&value](const std::string&) { value = true; });
}
void OptionList::text(const char* name, const char* argument, const char* help, std::string& value) {
  call(name, argument, help, [&value](const std::string& given) { value = given; });
}
void OptionList::texts(const char* name, const char* argument, const char* help, std::vector<std::string>& values) {
  call(name, argument, help, [&values](const std::string& given) { values.push_back(given); });
}
void OptionList::integer(const char* name, const char* argument, const char* help, int64_t& value, int64_t least) {
  call(name, argument, help, [&value, option = std::string("--") + name, least](const std::string& given) {
    value = parse_number<int64_t>(given, option, "a whole number");
    if (value < least) refuse(option + " is " + given + ", expected at least " + std::to_string(least));
  });
}
void OptionList::number(const char* name, const char* argument, const char* help, double& value) {
  call(name, argument, help, [&value, option = std::string("--") + name](const std::string& given) {
    value = parse_number<double>(given, option, "a number");
    if (!std::isfinite(value)) refuse(option + " is " + given + ", expected a finite number");
  });
}

bool OptionList::parse(int argc, char** argv, bool print_help) const {
  std::vector<option> known;
  for (const Entry& entry : entries_) known.push_back({entry.name.c_str(), entry.argument.empty() ? no_argument : required_argument, nullptr, 256});
  known.push_back({"help", no_argument, nullptr, 'h'});
  known.push_back({});
  opterr = 0;
  for (int index = 0, c; (c = getopt_long(argc, argv, ":h", known.data(), &index)) != -1;) {
    if (c == 'h') {
      if (print_help) std::fputs(help().c_str(), stdout);
      return false;
    }
    if (c == ':') refuse(std::string(argv[optind - 1]) + ": a value is missing");
    if (c != 256) refuse("unknown option " + std::string(argv[optind - 1]));
    entries_[static_cast<size_t>(index)].take(optarg ? optarg : "");
  }
  if (optind < argc && !positional_.name.empty()) positional_.take(argv[optind++]);
  if (optind < argc) refuse("unexpected argument \"" + std::string(argv[optind]) + "\"");
  return true;
}

std::string OptionList::help() const {
  std::string out = usage_ + "\n\n" + about_ + "\n\n";
  const auto line = [&](const Entry& entry, const char* dashes = "--") {
    std::string left = "  " + (dashes + entry.name) + (entry.argument.empty() ? "" : " " + entry.argument);
    left.resize(std::max<size_t>(left.size() + 2, 28), ' ');
    out += left + entry.help + "\n";
  };
  if (!positional_.name.empty()) line(positional_, "");
  for (const Entry& entry : entries_) line(entry);
  line({"help", "", "this text", {}});
  return out;
}

std::vector<int32_t> parse_ids(std::string_view text, const std::string& option) {
  std::vector<int32_t> ids;
  while (true) {
    const size_t comma = text.find(',');
    std::string_view piece = text.substr(0, comma);
    while (!piece.empty() && piece.front() == ' ') piece.remove_prefix(1);
    while (!piece.empty() && piece.back() == ' ') piece.remove_suffix(1);
    ids.push_back(parse_number<int32_t>(piece, option, "token ids such as 1,2,3"));
    if (comma == std::string_view::npos) return ids;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace example
