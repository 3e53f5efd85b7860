/// Names and answers of the Hugging Face hub. Pure.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

struct HubName {
  std::string repo, revision;  ///< "org/name", "main"
};

/// "hf://org/repo[@revision]". Throws invalid_argument.
DSINFER_INTERNAL HubName parse_hub_name(const std::string& model);

/// Whether it can be nothing but the name of a commit, and so of a folder: 40 to 64 hex digits.
DSINFER_INTERNAL bool is_commit(std::string_view text);

/// The commit of a revision, from the hub's JSON about it. Throws bad_format.
DSINFER_INTERNAL std::string commit_of_json(std::string_view text, const std::string& origin);

/// The SHA-256 that the hub's ETag of a large file is; nothing for other ETags.
DSINFER_INTERNAL std::optional<std::string> sha256_of_etag(std::string_view etag);

}  // namespace dsinfer
