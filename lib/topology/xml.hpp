/// A small element tree of an XML text, for files of topology: a few megabytes, few kinds of elements. What came before an error stays.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer::topology {

struct DSINFER_INTERNAL XmlElement {
  std::string name;
  std::vector<std::pair<std::string, std::string>> attributes;
  std::vector<XmlElement> children;
  std::string text;  ///< character data directly inside

  /// Value of an attribute; "" if absent.
  std::string_view get(std::string_view attribute) const;
  bool has(std::string_view attribute) const;
  const XmlElement* child(std::string_view name) const;  ///< the first of that name
};

struct DSINFER_INTERNAL XmlDocument {
  XmlElement root;
  bool whole = false;   ///< the root element was closed
  std::string error;    ///< "line 17: mismatched tag"; "" if whole
};

/// Where the element <name …> begins outside of comments; npos if nowhere. Text before it (prompts, prologue, comments) does not matter.
DSINFER_INTERNAL size_t find_xml_root(std::string_view text, std::string_view name);
/// The document that begins at the start of `text` with its root element. Text after the root does not matter. No entities, no external files.
DSINFER_INTERNAL XmlDocument parse_xml(std::string_view text);

}  // namespace dsinfer::topology
