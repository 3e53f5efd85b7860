// All importers of text, and the door to them: what a terminal, a Windows shell or a strange locale left in a text is put right here once.
#include "topology/importers.hpp"

#include <array>
#include <exception>

namespace dsinfer::topology {
namespace {

// UTF-16 with a byte order mark (a Windows shell's ">") → UTF-8; what is no text comes out as replacement characters.
std::string from_utf16(std::string_view bytes, bool big_endian) {
  std::string out;
  out.reserve(bytes.size());
  const auto unit = [&](size_t at) {
    const auto a = static_cast<unsigned char>(bytes[at]), b = static_cast<unsigned char>(bytes[at + 1]);
    return static_cast<uint32_t>(big_endian ? a << 8 | b : b << 8 | a);
  };
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    uint32_t code = unit(i);
    if (code >= 0xd800 && code < 0xdc00 && i + 3 < bytes.size() && unit(i + 2) >= 0xdc00 && unit(i + 2) < 0xe000) {
      code = 0x10000 + ((code - 0xd800) << 10) + (unit(i + 2) - 0xdc00);
      i += 2;
    } else if (code >= 0xd800 && code < 0xe000) {
      code = 0xfffd;
    }
    if (code < 0x80) out += static_cast<char>(code);
    else if (code < 0x800) (out += static_cast<char>(0xc0 | code >> 6)) += static_cast<char>(0x80 | (code & 0x3f));
    else if (code < 0x10000) {
      (out += static_cast<char>(0xe0 | code >> 12)) += static_cast<char>(0x80 | (code >> 6 & 0x3f));
      out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
      (out += static_cast<char>(0xf0 | code >> 18)) += static_cast<char>(0x80 | (code >> 12 & 0x3f));
      (out += static_cast<char>(0x80 | (code >> 6 & 0x3f))) += static_cast<char>(0x80 | (code & 0x3f));
    }
  }
  return out;
}

// Length of the terminal escape sequence at `at` (which holds ESC): "ESC [ … letter", "ESC ] … BEL", or two characters.
size_t escape_length(std::string_view text, size_t at) {
  if (at + 1 >= text.size()) return 1;
  constexpr size_t kLongest = 256;
  if (text[at + 1] == '[') {
    for (size_t i = at + 2; i < text.size() && i < at + kLongest; ++i) {
      if (text[i] >= 0x40 && text[i] <= 0x7e) return i + 1 - at;
      if (static_cast<unsigned char>(text[i]) < 0x20) return i - at;
    }
    return 2;
  }
  if (text[at + 1] == ']') {
    for (size_t i = at + 2; i < text.size() && i < at + kLongest; ++i) {
      if (text[i] == '\a') return i + 1 - at;
      if (text[i] == '\n') return i - at;
    }
  }
  return 2;
}

}  // namespace

std::string tidy_text(std::string_view text) {
  std::string converted;
  if (text.substr(0, 2) == "\xff\xfe" || text.substr(0, 2) == "\xfe\xff") {
    converted = from_utf16(text.substr(2), text[0] == '\xfe');
    text = converted;
  }
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '\x1b') {
      i += escape_length(text, i);
    } else if (text[i] == '\r') {
      if (i + 1 == text.size() || text[i + 1] != '\n') out += '\n';
      ++i;
    } else {
      out += text[i++];
    }
  }
  return clean_text(out);
}

std::span<const Importer> importers() {
  static const std::array all = {
      // tables of devices first: what they state goes before what listings let one conclude
      kIbvDevinfo,
      kIbstat,
      kIbstatus,
      kShowGids,
      kRdmaLink,
      kIbdev2netdev,
      kUverbsListing,
      kFiInfo,
      // the driver's listings; -q has names in full, the table and -L may cut them
      kSmiQuery,
      kSmiTopo,
      kSmiNvlink,
      kSmiTable,
      kGpusCsv,
      // trees in XML: link layers there follow from classes and names
      kNcclXml,
      kHwlocXml,
      kIpAddr,
      kIpJson,
      kIpBrief,
      kIfconfig,
      kIpRoute,
      kInterfacesCsv,
      kRailsCsv,
      kVersionsCsv,
      kSettings,
      kNcclLog,
      kNcclGraph,
      // PCI listings last: models and classes there are words
      kLspci,
      kLspciTree,
  };
  return all;
}

std::vector<Imported> import_parts(std::string_view text, const std::string& name) {
  const std::string plain = tidy_text(text);
  std::vector<Imported> parts;
  int rank = 0;
  for (const Importer& importer : importers()) {
    ++rank;
    Capture capture{plain, name, {}};
    try {
      if (!importer.recognises(plain)) continue;
      importer.read(capture);
    } catch (const std::exception& error) {  // an importer's own mistake costs its facts, not the machine
      capture.node = Node();
      capture.node.findings.push_back({"garbled", Severity::warning, {}, name + " could not be read as " + importer.format, {clean_text(error.what())},
                                       "Capture it again, whole."});
    }
    const std::string source = name + " (" + importer.format + ")";
    auto& sources = capture.node.sources;
    if (sources.empty() || sources.back() != source) sources.push_back(source);
    parts.push_back({std::move(capture.node), importer.format, rank});
  }
  return parts;
}

std::vector<Node> import_capture(std::string_view text, const std::string& name) {
  std::vector<Node> nodes;
  for (Imported& part : import_parts(text, name)) nodes.push_back(std::move(part.node));
  return nodes;
}

}  // namespace dsinfer::topology
