#include <arpa/inet.h>

#include <array>

#include "topology/ports.hpp"

namespace dsinfer::topology {

bool link_local(const std::string& ip) {
  if (ip.starts_with("169.254.")) return true;
  std::array<unsigned char, 16> bytes;
  return inet_pton(AF_INET6, ip.c_str(), bytes.data()) == 1 && bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80;
}

std::string subnet_of(const Address& address) {
  std::array<unsigned char, 16> bytes{};
  std::array<char, INET6_ADDRSTRLEN> text;
  const bool ipv4 = inet_pton(AF_INET, address.ip.c_str(), bytes.data()) == 1;
  const int bits = ipv4 ? 32 : 128;
  if (!ipv4 && inet_pton(AF_INET6, address.ip.c_str(), bytes.data()) != 1) return "";
  if (address.prefix_len < 0 || address.prefix_len > bits) return "";
  for (int bit = address.prefix_len; bit < bits; ++bit)
    bytes[static_cast<size_t>(bit / 8)] &= static_cast<unsigned char>(~(0x80 >> (bit % 8)));
  if (!inet_ntop(ipv4 ? AF_INET : AF_INET6, bytes.data(), text.data(), text.size())) return "";
  return std::string(text.data()) + "/" + std::to_string(address.prefix_len);
}

std::string subnet_of(const Interface& interface) {
  std::string ipv6;
  for (const Address& address : interface.addresses) {
    const std::string subnet = subnet_of(address);
    if (subnet.empty() || link_local(address.ip)) continue;
    if (address.ip.find(':') == std::string::npos) return subnet;
    if (ipv6.empty()) ipv6 = subnet;
  }
  return ipv6;
}

}  // namespace dsinfer::topology
