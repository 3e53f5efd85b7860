#include <fmt/format.h>

#include "dsinfer/error.hpp"
#include "storage/schemes.hpp"

namespace dsinfer {
namespace {

class Folder final : public Storage {
 public:
  explicit Folder(std::filesystem::path folder) : folder_(std::move(folder)), name_(folder_.string()) {}
  const std::string& name() const override { return name_; }
  bool exists(const std::string& file) override {
    std::error_code code;
    const bool there = std::filesystem::exists(folder_ / file, code);
    if (code) throw Error(Error::io, fmt::format("{}/{}: cannot be looked at: {}", name_, file, code.message()));  // no rights, links in a circle
    return there;
  }
  std::unique_ptr<Source> open(const std::string& file) override { return open_file(folder_ / file); }
  const std::filesystem::path* folder() const override { return &folder_; }

 private:
  std::filesystem::path folder_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Storage> open_folder(const std::filesystem::path& folder) {
  std::error_code code;
  if (!std::filesystem::is_directory(folder, code)) throw Error(Error::not_found, folder.string() + ": no such model folder");
  return std::make_unique<Folder>(folder);
}

}  // namespace dsinfer
