/// The options that programs over one model share: which model, which plan, how much memory.
#pragma once
#include <optional>
#include <string>

#include "common/options.hpp"
#include "dsinfer/forward.hpp"
#include "dsinfer/tokenizer.hpp"

namespace example {

struct ModelOptions {
  std::string model, plan, weights = "stored", cache = "auto", shards, device = "cpu";
  std::string dummy_seed;     ///< of made-up weights; empty: the model's own
  int64_t threads = 0, max_len = 0, max_tokens = 512, max_sequences = 64, num_pages = 0;
  bool w8a8 = false;
  double stall_timeout = 60;  ///< seconds

  void add_to(OptionList& options);
  /// Also sets the World's stall limit. Throws what a wrong plan file or word throws.
  dsinfer::ForwardOptions forward(dsinfer::World& world) const;
};

/// "--dummy-weights SEED", and the model that it makes of a folder; an empty seed leaves the model as it is.
void add_dummy_weights(OptionList& options, std::string& seed);
std::string with_dummy_weights(const std::string& model, const std::string& seed);

/// The model of the build tree, or the one installed beside this program: <prefix>/share/dsinfer/mini.
std::string shipped_model();

/// Collective: rank 0 reads the tokenizer of `model`, if there is one; no other rank does.
std::optional<dsinfer::Tokenizer> load_tokenizer(dsinfer::World& world, const std::string& model);

}  // namespace example
