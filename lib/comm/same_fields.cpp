#include "comm/same_fields.hpp"

#include <fmt/format.h>

#include "comm/nodes.hpp"
#include "core/bytes.hpp"
#include "core/outcome.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

std::string pack(const std::string& host, const Fields& fields) {
  ByteWriter out;
  out.put_text(host);
  for (const auto& [name, value] : fields) {
    out.put_text(name);
    out.put_text(value);
  }
  return out.take();
}

std::string shorten(const std::string& value) { return value.size() <= 200 ? value : value.substr(0, 197) + "..."; }

}  // namespace

void check_same_fields(World& world, const Fields& mine) {
  const std::vector<std::string> all = world.all_gather(pack(host_name(), mine));
  ByteReader first(all[0]);
  const std::string first_host = first.get_text();
  Fields expected;
  for (size_t i = 0; i < mine.size(); ++i) {
    std::string name = first.get_text();
    expected.emplace_back(std::move(name), first.get_text());
  }
  for (size_t rank = 1; rank < all.size(); ++rank) {
    ByteReader in(all[rank]);
    const std::string host = in.get_text();
    for (const auto& [name, value] : expected) {
      in.get_text();
      const std::string found = in.get_text();
      if (found == value) continue;
      throw Error(Error::invalid_argument,
                  fmt::format("ranks disagree on {}: rank 0 ({}) has {}, rank {} ({}) has {}; start all ranks with the same options and files", name,
                              first_host, shorten(value), rank, host, shorten(found)),
                  static_cast<int>(rank), host);
    }
  }
}

}  // namespace dsinfer
