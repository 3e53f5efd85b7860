// iproute2's JSON: ip -j addr, link, route, and rdma -j link, dev. Objects are taken one by one, so that a cut text gives what came before the cut.
#include <algorithm>
#include <cctype>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "topology/importers.hpp"
#include "topology/interface_text.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

std::string text(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}
std::optional<int64_t> number(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) return std::nullopt;
  return it->get<int64_t>();
}
const Json* part(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && (it->is_object() || it->is_array()) ? &*it : nullptr;
}

// End of the object that begins at `at` (behind its brace); npos if the text ends inside.
size_t object_end(std::string_view json, size_t at) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = at; i < json.size(); ++i) {
    const char c = json[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return i + 1;
    }
  }
  return json.npos;
}

class IpJson {
 public:
  explicit IpJson(Capture& capture) : node_(capture.node), devices_(node_), remarks_(capture), name_(capture.name) {}

  void read(std::string_view json) {
    bool whole = true;
    for (size_t at = json.find('{'); at != json.npos;) {
      const size_t key = json.find_first_not_of(" \t\r\n", at + 1);
      if (key == json.npos || (json[key] != '"' && json[key] != '}')) {  // a brace that begins no object
        at = json.find('{', at + 1);
        continue;
      }
      const size_t end = object_end(json, at);
      if (end == json.npos) {
        whole = false;
        remarks_.truncated(json.substr(at, 80));
        break;
      }
      object(json.substr(at, end - at));
      at = json.find('{', end);
    }
    settle_links(node_);
    finish_default(node_, best_);
    // Without a selection `ip -j addr` lists all interfaces, lo first.
    node_.interfaces_complete = whole && listed_ >= 2 && node_.interfaces.size() >= 2 && node_.interfaces[0].name == "lo" && json.find(']') != json.npos;
  }

 private:
  void object(std::string_view json) {
    Json object;
    try {
      object = parse_json(std::string(json), name_);
    } catch (const Error&) {
      return remarks_.garbled(json.substr(0, 80));
    }
    if (object.contains("dst")) return route(object);
    if (text(object, "ifname").empty()) return;
    if (object.contains("port")) return rdma_link(object);
    if (object.contains("node_type")) return rdma_device(object);
    if (object.contains("flags") || object.contains("operstate") || object.contains("addr_info") || object.contains("mtu")) interface(object);
  }

  void interface(const Json& object) {
    Interface* made = add_named(devices_, text(object, "ifname"));
    if (!made) return;
    ++listed_;
    std::string flags;
    if (const Json* list = part(object, "flags")) {
      for (const Json& flag : *list) {
        if (flag.is_string() && flags.size() < 1000) flags += flag.get<std::string>() + ",";
      }
      set_flags(*made, flags, text(object, "operstate"));
    } else if (const std::string state = text(object, "operstate"); !state.empty() && !made->up) {
      made->up = state == "UP" || state == "UNKNOWN";
    }
    const auto mtu = number(object, "mtu");
    if (mtu && *mtu > 0 && *mtu <= 1 << 24) made->mtu = static_cast<int>(*mtu);
    if (const std::string type = text(object, "link_type"); !type.empty()) made->type = interface_type(type);
    if (made->type == "loopback") made->kind = "loopback";
    if (const std::string mac = text(object, "address"); !mac.empty() && mac.size() < 64) made->mac = lower_case(clean_text(mac));
    if (const std::string master = text(object, "master"); !master.empty()) made->master = clean_text(master.substr(0, 64));
    if (const std::string parent = text(object, "link"); !parent.empty() && !object.contains("link_netnsid")) made->lower = {clean_text(parent.substr(0, 64))};
    if (text(object, "parentbus") == "pci") made->bus_id = bus_id_of(text(object, "parentdev"));
    if (!made->bus_id.empty() && made->kind.empty()) made->kind = "physical";
    if (const Json* info = part(object, "linkinfo"); info && info->is_object()) {
      if (const std::string kind = kind_of_link(text(*info, "info_kind")); !kind.empty()) made->kind = kind;
    }
    if (const Json* list = part(object, "addr_info")) addresses(*made, *list);
  }

  void addresses(Interface& interface, const Json& list) {
    for (const Json& item : list) {
      if (!item.is_object()) continue;
      auto address = address_with_prefix(text(item, "local"));
      if (!address) continue;
      const auto length = number(item, "prefixlen");
      if (length && *length >= 0 && *length <= 128) address->prefix_len = static_cast<int>(*length);
      add_address(interface, *address);
    }
  }

  void route(const Json& object) {
    const std::string destination = text(object, "dst"), dev = text(object, "dev"), table = text(object, "table");
    if (!table.empty() && table != "main" && table != "254") return;
    if (destination == "default") {
      const int64_t metric = number(object, "metric").value_or(0);
      const bool ipv6 = text(object, "gateway").find(':') != std::string::npos;
      offer(dev, metric, ipv6);
      const Json* hops = part(object, "nexthops");
      for (const Json& hop : hops ? *hops : Json::array()) {
        if (hop.is_object()) offer(text(hop, "dev"), metric, ipv6);
      }
      return;
    }
    const auto subnet = address_with_prefix(destination);
    auto address = address_with_prefix(text(object, "prefsrc"));
    Interface* interface = subnet && address && text(object, "scope") == "link" ? add_named(devices_, dev) : nullptr;
    if (!interface) return;
    address->prefix_len = subnet->prefix_len;
    add_address(*interface, *address);
  }

  void offer(const std::string& dev, int64_t metric, bool ipv6) {
    Interface* interface = dev.empty() ? nullptr : add_named(devices_, dev);
    if (interface) best_.offer(interface->name, metric, ipv6);
  }

  void rdma_link(const Json& object) {
    Hca* hca = devices_.hca(text(object, "ifname"));
    HcaPort* port = hca ? Devices::port(*hca, number(object, "port").value_or(0)) : nullptr;
    if (!port) return;
    port->state = port_state_of(text(object, "state")).value_or(PortState::unknown);
    port->phys_state = phys_state_of(text(object, "physical_state"));
    const auto lid = number(object, "lid"), sm_lid = number(object, "sm_lid");
    if (lid && *lid >= 0 && *lid <= 0xffffff) port->lid = static_cast<int>(*lid);
    if (sm_lid && *sm_lid >= 0 && *sm_lid <= 0xffffff) port->sm_lid = static_cast<int>(*sm_lid);
    if (object.contains("subnet_prefix")) port->link_layer = LinkLayer::infiniband;
    if (const std::string netdev = text(object, "netdev"); !netdev.empty()) add_netdev(*port, netdev);
  }

  void rdma_device(const Json& object) {
    Hca* hca = devices_.hca(text(object, "ifname"));
    if (!hca) return;
    const std::string type = text(object, "node_type");
    hca->node_type = type.starts_with("usnic") ? Hca::NodeType::usnic : node_type_of(type).value_or(Hca::NodeType::unknown);
    hca->firmware = clean_text(text(object, "fw").substr(0, 64));
    hca->node_guid = guid_of(text(object, "node_guid"));
    hca->sys_image_guid = guid_of(text(object, "sys_image_guid"));
  }

  Node& node_;
  Devices devices_;
  Remarks remarks_;
  std::string name_;
  DefaultRoute best_;
  size_t listed_ = 0;
};

bool is_ip_json(std::string_view json) {
  const bool interfaces = json.find("\"ifname\"") != json.npos, routes = json.find("\"dst\"") != json.npos && json.find("\"dev\"") != json.npos;
  return (interfaces || routes) && json.find('[') != json.npos;
}

void read_ip_json(Capture& capture) { IpJson(capture).read(capture.text); }

}  // namespace

const Importer kIpJson{"ip -j", is_ip_json, read_ip_json};

}  // namespace dsinfer::topology
