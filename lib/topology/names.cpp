#include "topology/names.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>

namespace dsinfer::topology {
namespace {

template <class T>
struct Word {
  T value;
  std::string_view text;
};
constexpr Word<Transport> kTransports[] = {{Transport::unknown, ""}, {Transport::ib, "ib"}, {Transport::roce, "roce"}, {Transport::socket, "socket"}};
constexpr Word<LinkLayer> kLinkLayers[] = {{LinkLayer::unknown, ""}, {LinkLayer::infiniband, "InfiniBand"}, {LinkLayer::ethernet, "Ethernet"},
                                           {LinkLayer::unspecified, "Unspecified"}};
constexpr Word<PortState> kPortStates[] = {{PortState::unknown, ""}, {PortState::down, "DOWN"}, {PortState::init, "INIT"},
                                           {PortState::armed, "ARMED"}, {PortState::active, "ACTIVE"}};
constexpr Word<PathKind> kPathKinds[] = {{PathKind::unknown, ""}, {PathKind::self, "X"},     {PathKind::nvlink, "NVL"}, {PathKind::c2c, "C2C"},
                                         {PathKind::pix, "PIX"},  {PathKind::pxb, "PXB"},    {PathKind::phb, "PHB"},    {PathKind::node, "NODE"},
                                         {PathKind::sys, "SYS"}};
constexpr Word<Severity> kSeverities[] = {{Severity::info, "info"}, {Severity::warning, "warning"}, {Severity::error, "error"}};
constexpr Word<Hca::NodeType> kNodeTypes[] = {{Hca::NodeType::unknown, ""}, {Hca::NodeType::ca, "CA"}, {Hca::NodeType::rnic, "RNIC"},
                                              {Hca::NodeType::usnic, "usNIC"}, {Hca::NodeType::unspecified, "unspecified"}};
constexpr Word<NvLink::Remote> kRemotes[] = {{NvLink::Remote::unknown, ""}, {NvLink::Remote::gpu, "gpu"},
                                             {NvLink::Remote::nvswitch, "nvswitch"}, {NvLink::Remote::cpu, "cpu"}};

bool same(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

template <class T, size_t n>
std::string_view find_word(const Word<T> (&words)[n], T value) {
  for (const auto& w : words) {
    if (w.value == value) return w.text;
  }
  return "";
}
template <class T, size_t n>
std::optional<T> find_value(const Word<T> (&words)[n], std::string_view text) {
  for (const auto& w : words) {
    if (same(w.text, trim(text))) return w.value;
  }
  return std::nullopt;
}

// "4: ACTIVE" → "ACTIVE"; "PORT_ACTIVE (4)" → "PORT_ACTIVE".
std::string_view bare(std::string_view text) {
  text = trim(text);
  if (const size_t colon = text.find(':'); colon != text.npos && colon <= 2) text = trim(text.substr(colon + 1));
  if (const size_t paren = text.find('('); paren != text.npos) text = trim(text.substr(0, paren));
  return text;
}

bool hex_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c); });
}

}  // namespace

std::string_view word(Transport value) { return find_word(kTransports, value); }
std::string_view word(LinkLayer value) { return find_word(kLinkLayers, value); }
std::string_view word(PortState value) { return find_word(kPortStates, value); }
std::string_view word(PathKind value) { return find_word(kPathKinds, value); }
std::string_view word(Severity value) { return find_word(kSeverities, value); }
std::string_view word(Hca::NodeType value) { return find_word(kNodeTypes, value); }
std::string_view word(NvLink::Remote value) { return find_word(kRemotes, value); }

std::optional<Transport> transport_of(std::string_view text) { return find_value(kTransports, text); }
std::optional<LinkLayer> link_layer_of(std::string_view text) { return find_value(kLinkLayers, text); }
std::optional<PathKind> path_kind_of(std::string_view text) { return find_value(kPathKinds, text); }
std::optional<Severity> severity_of(std::string_view text) { return find_value(kSeverities, text); }
std::optional<Hca::NodeType> node_type_of(std::string_view text) { return find_value(kNodeTypes, text); }
std::optional<NvLink::Remote> remote_of(std::string_view text) { return find_value(kRemotes, text); }

std::optional<PortState> port_state_of(std::string_view text) {
  text = bare(text);
  if (text.size() > 5 && same(text.substr(0, 5), "PORT_")) text.remove_prefix(5);
  if (same(text, "Initializing") || same(text, "INITIALIZE")) return PortState::init;
  if (same(text, "ACTIVE_DEFER")) return PortState::active;
  if (same(text, "NOP")) return PortState::down;
  return find_value(kPortStates, text);
}

std::string bus_id_of(std::string_view text) {
  text = trim(text);
  const size_t dot = text.rfind('.');
  if (dot == text.npos || text.size() - dot != 2) return "";
  const size_t device = text.rfind(':', dot);
  if (device == text.npos) return "";
  const size_t bus = device == 0 ? text.npos : text.rfind(':', device - 1);
  std::string_view domain = bus == text.npos ? "0000" : text.substr(0, bus);
  const std::string_view bus_number = text.substr(bus == text.npos ? 0 : bus + 1, device - (bus == text.npos ? 0 : bus + 1));
  const std::string_view rest = text.substr(device + 1, dot - device - 1), function = text.substr(dot + 1);
  if (!hex_digits(domain) || !hex_digits(bus_number) || !hex_digits(rest) || !hex_digits(function)) return "";
  if (domain.size() > 8 || bus_number.size() > 2 || rest.size() > 2) return "";
  while (domain.size() > 4 && domain.front() == '0') domain.remove_prefix(1);
  std::string id = std::string(4 - std::min<size_t>(4, domain.size()), '0') + std::string(domain) + ":" +
                   std::string(2 - bus_number.size(), '0') + std::string(bus_number) + ":" + std::string(2 - rest.size(), '0') +
                   std::string(rest) + "." + std::string(function);
  std::transform(id.begin(), id.end(), id.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return id;
}

std::string phys_state_of(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 10> names = {{{"LINK_UP", "LinkUp"},
                                                                                   {"LINKUP", "LinkUp"},
                                                                                   {"DISABLED", "Disabled"},
                                                                                   {"POLLING", "Polling"},
                                                                                   {"SLEEP", "Sleep"},
                                                                                   {"PORT_CONFIGURATION_TRAINNING", "PortConfigurationTraining"},
                                                                                   {"PORT_CONFIGURATION_TRAINING", "PortConfigurationTraining"},
                                                                                   {"PORTCONFIGURATIONTRAINING", "PortConfigurationTraining"},
                                                                                   {"LINK_ERROR_RECOVERY", "LinkErrorRecovery"},
                                                                                   {"LINKERRORRECOVERY", "LinkErrorRecovery"}}};
  text = bare(text);
  for (const auto& [from, to] : names) {
    if (same(from, text)) return std::string(to);
  }
  return clean_text(text);
}

double rate_of(std::string_view text) {
  text = trim(text);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && std::isfinite(value) && value > 0 ? value : 0;
}

std::string address_of(std::string_view text) {
  const std::string given(trim(text));
  std::array<unsigned char, 16> bytes;
  std::array<char, INET6_ADDRSTRLEN> out;
  if (given.size() < 64 && inet_pton(AF_INET, given.c_str(), bytes.data()) == 1) return given;
  if (given.size() >= 64 || inet_pton(AF_INET6, given.c_str(), bytes.data()) != 1) return "";
  return inet_ntop(AF_INET6, bytes.data(), out.data(), out.size()) ? out.data() : "";
}

double pcie_gb_per_s(std::string_view speed, int width) {
  const double gt = rate_of(speed);
  if (gt <= 0 || width < 0 || width > 64) return 0;
  const double coding = gt < 8 ? 8.0 / 10 : gt < 64 ? 128.0 / 130 : 242.0 / 256;  // Gen1-2, Gen3-5, Gen6 (FLIT)
  return gt * coding / 8 * (width == 0 ? 16 : width);
}

bool is_gpu_class(uint32_t class_code, uint32_t vendor) {
  return class_code >> 8 == 0x0302 ? vendor == 0 || vendor == 0x10de : class_code >> 8 == 0x0300 && vendor == 0x10de;
}
bool is_nic_class(uint32_t class_code) { return class_code >> 16 == 0x02; }
bool is_efa(uint32_t pci_vendor, uint32_t pci_device) { return pci_vendor == 0x1d0f && (pci_device & 0xfff0) == 0xefa0; }

std::string clean_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      if (c >= 0x20 ? c != 0x7f : c == '\t' || c == '\n') out += static_cast<char>(c);
      ++i;
      continue;
    }
    const size_t length = c >= 0xf0 && c < 0xf5 ? 4 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xc2 && c < 0xe0 ? 2 : 0;
    bool whole = length > 0 && i + length <= text.size();
    for (size_t k = 1; whole && k < length; ++k) whole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (whole && length == 3) {  // overlong forms and surrogates
      const auto next = static_cast<unsigned char>(text[i + 1]);
      whole = !(c == 0xe0 && next < 0xa0) && !(c == 0xed && next >= 0xa0);
    }
    if (whole && length == 4) {
      const auto next = static_cast<unsigned char>(text[i + 1]);
      whole = !(c == 0xf0 && next < 0x90) && !(c == 0xf4 && next >= 0x90);
    }
    if (whole && (text.substr(i, 3) == "\xef\xbf\xbe" || text.substr(i, 3) == "\xef\xbf\xbf")) {  // U+FFFE, U+FFFF: XML 1.0 takes neither
      out += "\xef\xbf\xbd";
      i += 3;
      continue;
    }
    const bool control = whole && c == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0;  // C1: some terminals obey them
    if (!control) out += whole ? std::string(text.substr(i, length)) : std::string("\xef\xbf\xbd");
    i += whole ? length : 1;
  }
  return out;
}

}  // namespace dsinfer::topology
