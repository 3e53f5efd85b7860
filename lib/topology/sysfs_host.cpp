// What host a tree is of: its names, kernel and system, and whether it is a virtual machine or a container.
#include <algorithm>
#include <array>

#include "topology/sysfs.hpp"

namespace dsinfer::topology {
namespace {

std::string text(const Tree& tree, const std::string& path) { return clean_text(tree.line(path).value_or("")); }

// NAME="value" of /etc/os-release.
std::string release_name(const Tree& tree) {
  std::string release = "\n" + tree.read("etc/os-release").value_or(tree.read("usr/lib/os-release").value_or(""));
  const size_t at = release.find("\nPRETTY_NAME=");
  if (at == release.npos) return "";
  std::string name = release.substr(at + 13, release.find('\n', at + 1) - at - 13);
  name.erase(std::remove_if(name.begin(), name.end(), [](char c) { return c == '"' || c == '\'' || c == '\r'; }), name.end());
  return clean_text(name);
}

std::string kernel_release(const Tree& tree) {
  const std::string release = text(tree, "proc/sys/kernel/osrelease");
  if (!release.empty()) return release;
  const std::string version = text(tree, "proc/version");  // "Linux version 6.11.0-26-generic (…"
  constexpr std::string_view kBegin = "Linux version ";
  return version.starts_with(kBegin) ? version.substr(kBegin.size(), version.find(' ', kBegin.size()) - kBegin.size()) : "";
}

bool has_word(const std::string& line, std::string_view word) {
  for (size_t at = line.find(word); at != line.npos; at = line.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || line[at - 1] == ' ' || line[at - 1] == '\t') && (end == line.size() || line[end] == ' ')) return true;
  }
  return false;
}

// The first "flags : …" line of /proc/cpuinfo; x86 only.
std::string processor_flags(const Tree& tree) {
  const std::string info = "\n" + tree.read("proc/cpuinfo", 64 << 10).value_or("");
  const size_t at = info.find("\nflags");
  return at == info.npos ? "" : info.substr(at + 1, std::min(info.find('\n', at + 1), info.size()) - at - 1);
}

std::optional<bool> is_virtual_machine(const Tree& tree, const std::string& flags) {
  if (has_word(flags, "hypervisor")) return true;
  const std::string maker = text(tree, "sys/class/dmi/id/sys_vendor") + " " + text(tree, "sys/class/dmi/id/product_name");
  for (const std::string_view sign : {"QEMU", "KVM", "VMware", "VirtualBox", "Virtual Machine", "Xen", "Google Compute Engine", "Bochs", "OpenStack"}) {
    if (maker.find(sign) != maker.npos) return true;
  }
  if (text(tree, "sys/hypervisor/type") == "xen") return true;
  if (!flags.empty()) return false;  // x86 processors show it to every guest
  return std::nullopt;
}

std::optional<bool> is_container(const Tree& tree) {
  if (tree.exists(".dockerenv") || tree.exists("run/.containerenv") || tree.exists("run/secrets/kubernetes.io")) return true;
  const std::string groups = tree.read("proc/1/cgroup", 64 << 10).value_or("") + tree.read("proc/self/cgroup", 64 << 10).value_or("");
  for (const std::string_view sign : {"docker", "kubepods", "containerd", "libpod", "lxc", "crio-"}) {
    if (groups.find(sign) != groups.npos) return true;
  }
  const std::string root = tree.line("proc/self/mounts").value_or("");  // its layers lie in the store of a container engine
  for (const std::string_view store : {"/docker/", "containerd", "/containers/"}) {
    if (root.starts_with("overlay / overlay") && root.find(store) != root.npos) return true;
  }
  return tree.exists("proc/1") ? std::optional(false) : std::nullopt;
}

}  // namespace

void read_host(const Tree& tree, Host& host) {
  host.name = text(tree, "proc/sys/kernel/hostname");  // the one of this namespace: in containers it differs from the file
  if (host.name.empty()) host.name = text(tree, "etc/hostname");
  host.id = text(tree, "proc/sys/kernel/random/boot_id");
  host.os = release_name(tree);
  host.kernel = kernel_release(tree);
  host.arch = text(tree, "proc/sys/kernel/arch");
  const std::string flags = processor_flags(tree);
  if (host.arch.empty() && has_word(flags, "lm")) host.arch = "x86_64";
  host.virtual_machine = is_virtual_machine(tree, flags);
  host.container = is_container(tree);
}

}  // namespace dsinfer::topology
