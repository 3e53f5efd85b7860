// What is this machine? GPUs, links and network cards, the network that NCCL and its relatives shall use, and why. Under mpirun: all machines of
// the job, and what does not fit between them. With --from: a machine that captured files or pasted text describe.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/options.hpp"
#include "common/ranks.hpp"
#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"

namespace {

using namespace dsinfer;

constexpr const char* kProgram = "example_topology";
constexpr int kFoundErrors = 1, kCouldNotRun = 2;

constexpr const char* kAbout =
    R"~(Shows this machine: GPUs, NVLink, network cards, the network that was chosen and why. Under mpirun: all machines of the
job and what does not fit between them; rank 0 prints. --env prints lines for a shell: eval "$(example_topology --env)")~";

struct Options {
  std::string svg, from, node, color = "auto";
  bool json = false, dot = false, env = false, check = false;
};

[[noreturn]] void refuse(const std::string& what) { throw Error(Error::invalid_argument, what + " (see --help)"); }

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  example::OptionList list(std::string("usage: ") + kProgram + " [options]", kAbout);
  list.flag("json", "everything as JSON", options.json);
  list.flag("dot", "a graph for Graphviz: | dot -Tsvg", options.dot);
  list.text("svg", "FILE", "writes a picture (- is standard output)", options.svg);
  list.flag("env", "the environment to set, for eval of a shell", options.env);
  list.text("node", "NAME|INDEX", "with --env: of this node (default: rank 0's, else the first)", options.node);
  list.text("from", "PATH|-", "not this machine, but captured files, an archive, a stored --json, or text pasted to standard input", options.from);
  list.flag("check", "prints warnings and errors alone; exit status 1 if one is an error, 2 if it could not run", options.check);
  list.text("color", "WHEN", "auto (default), always, never", options.color);
  if (!list.parse(argc, argv, example::launcher_rank() <= 0)) return std::nullopt;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--from=" || (word == "--from" && i + 1 < argc && !*argv[i + 1])) refuse("--from: the path is empty (a variable that is not set?)");
  }
  if (options.color != "auto" && options.color != "always" && options.color != "never") refuse("--color " + options.color + ": expected auto, always or never");
  if (options.json + options.dot + options.env + (options.svg == "-") > 1) refuse("--json, --dot, --env and --svg - all print: choose one");
  if (!options.node.empty() && !options.env) refuse("--node belongs to --env");
  return options;
}

bool wants_color(const Options& options) {
  if (options.color != "auto") return options.color == "always";
  const char* terminal = std::getenv("TERM");
  const char* refused = std::getenv("NO_COLOR");  // no-color.org
  return isatty(STDOUT_FILENO) && !(refused && *refused) && terminal && std::string(terminal) != "dumb";
}

// ---- where the cluster comes from ----

bool is_stored_cluster(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && text[first] == '{' && text.find("\"dsinfer-cluster\"") != std::string::npos;
}

Cluster read_stdin() {
  if (isatty(STDIN_FILENO)) std::cerr << "paste what the machine printed, then Ctrl-D on an empty line\n";
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  return is_stored_cluster(text) ? Cluster::from_json(text) : import_text(text);
}

Cluster read_captured(const std::string& path) {
  if (path == "-") return read_stdin();
  if (std::filesystem::is_regular_file(path)) {
    std::ifstream file(path, std::ios::binary);
    std::string text(64, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(file.gcount()));
    if (text.find_first_not_of(" \t\r\n") < text.size() && text[text.find_first_not_of(" \t\r\n")] == '{') {
      file.clear();
      text.append(std::istreambuf_iterator<char>(file), {});
      if (is_stored_cluster(text)) return Cluster::from_json(text);
    }
  }
  return import_machines(path);
}

Cluster this_machine() {
  Cluster cluster;
  cluster.nodes.push_back(probe_node());
  choose_network(cluster);
  return cluster;
}

// ---- what is printed ----

int chosen_node(const Options& options, const Cluster& cluster) {
  if (cluster.nodes.empty()) throw Error(Error::not_found, "no machine is described there");
  if (options.node.empty()) return cluster.node_of_rank.empty() ? 0 : cluster.node_of_rank[0];
  std::string names;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    if (cluster.nodes[i].name == options.node) return static_cast<int>(i);
    if (i < 16) names += (i ? ", " : "") + cluster.nodes[i].name;
  }
  int index = -1;
  const auto [end, error] = std::from_chars(options.node.data(), options.node.data() + options.node.size(), index);
  if (error == std::errc() && end == options.node.data() + options.node.size() && index >= 0 && static_cast<size_t>(index) < cluster.nodes.size()) return index;
  throw Error(Error::not_found, "--node " + options.node + ": the nodes are " + names + (cluster.nodes.size() > 16 ? ", …" : ""));
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << content) || !file.flush()) throw Error(Error::io, path + ": cannot be written");
}

// Prints the findings that matter; gives the exit status.
int check(const Cluster& cluster, bool print) {
  int status = 0;
  const auto say = [&](const Finding& finding, const std::string& where) {
    if (finding.severity == Severity::info) return;
    const bool error = finding.severity == Severity::error;
    if (error) status = kFoundErrors;
    if (!print) return;
    std::cout << (error ? "error" : "warning") << " " << finding.code << (where.empty() ? "" : " (" + where + ")") << ": " << finding.text << "\n";
    for (const std::string& line : finding.evidence) std::cout << "    " << line << "\n";
    if (!finding.advice.empty()) std::cout << "    → " << finding.advice << "\n";
  };
  for (const Finding& finding : cluster.findings) {
    std::string where;
    for (const std::string& node : finding.nodes) where += (where.empty() ? "" : ", ") + node;
    say(finding, where);
  }
  for (const Node& node : cluster.nodes) {
    for (const Finding& finding : node.findings) say(finding, node.name);
  }
  return status;
}

int show(const Options& options, const Cluster& cluster) {
  if (!options.svg.empty() && options.svg != "-") write_file(options.svg, cluster.svg());
  bool printed = true;
  if (options.json) {
    std::cout << nlohmann::ordered_json::parse(cluster.to_json()).dump(2) << "\n";
  } else if (options.dot) {
    std::cout << cluster.dot();
  } else if (options.env) {
    std::cout << cluster.environment(chosen_node(options, cluster));
  } else if (options.svg == "-") {
    std::cout << cluster.svg();
  } else if (options.svg.empty() && !options.check) {
    std::cout << cluster.text(wants_color(options));
  } else {
    printed = false;
  }
  const int status = options.check ? check(cluster, !printed) : 0;
  if (!std::cout.flush()) throw Error(Error::io, "standard output: cannot be written");
  return status;
}

int run(const Options& options) {
  if (options.from.empty() && example::launcher_rank() >= 0) {
    return example::run_ranks(kProgram, [&](World& world) {
      const Cluster cluster = gather(world);
      return world.rank() == 0 ? show(options, cluster) : 0;
    }, kCouldNotRun);
  }
  if (example::launcher_rank() > 0) return 0;  // captured files are read once
  if (!options.from.empty()) {
    const Cluster cluster = read_captured(options.from);
    if (cluster.nodes.empty() && !options.json) {
      for (const Finding& finding : cluster.findings) {
        for (const std::string& line : finding.evidence) std::cerr << "    " << line << "\n";
      }
      throw Error(Error::not_found, "--from " + options.from + ": no machine is described there; it takes what ibstat, ibv_devinfo, nvidia-smi topo -m, ip addr, lspci and their like print");
    }
    return show(options, cluster);
  }
  return show(options, this_machine());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::optional<Options> options = parse(argc, argv);
    return options ? run(*options) : 0;
  } catch (const std::exception& e) {
    return example::refuse_start(kProgram, e.what());
  }
}
