#include "topology/xml.hpp"

#include <expat.h>

#include <algorithm>
#include <cctype>
#include <memory>

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxDepth = 200;         // hwloc and NCCL files stay under 40
constexpr size_t kMaxElements = 400000;   // a machine of 2,000 processors has about 20,000
constexpr size_t kMaxText = size_t{1} << 20;

// Builds the tree while expat calls back. Children live in vectors, so the way down is kept as indexes, not as pointers.
struct Builder {
  XML_Parser parser;
  XmlDocument document;
  std::vector<XmlElement> open;  // the way down; closed elements move into their parents
  size_t elements = 0, text = 0;
  std::string refused;

  void stop(const char* why) {
    if (refused.empty()) refused = why;
    XML_StopParser(parser, XML_FALSE);
  }
  void close() {
    XmlElement done = std::move(open.back());
    open.pop_back();
    (open.empty() ? document.root : open.back().children.emplace_back()) = std::move(done);
  }
};

// Exceptions must not pass through expat, which is C.
template <class Work>
void guarded(void* data, Work&& work) {
  auto& builder = *static_cast<Builder*>(data);
  if (!builder.refused.empty()) return;
  try {
    work(builder);
  } catch (const std::exception&) {
    builder.stop("no memory");
  }
}

void XMLCALL on_start(void* data, const XML_Char* name, const XML_Char** attributes) {
  guarded(data, [&](Builder& b) {
    if (b.open.size() >= kMaxDepth) return b.stop("nested too deeply");
    if (++b.elements > kMaxElements) return b.stop("too many elements");
    XmlElement element;
    element.name = name;
    for (; *attributes; attributes += 2) element.attributes.emplace_back(attributes[0], attributes[1]);
    b.open.push_back(std::move(element));
  });
}

void XMLCALL on_end(void* data, const XML_Char*) {
  guarded(data, [](Builder& b) {
    b.close();
    if (!b.open.empty()) return;
    b.document.whole = true;
    XML_StopParser(b.parser, XML_FALSE);  // what follows the root is another tool's output
  });
}

void XMLCALL on_text(void* data, const XML_Char* text, int length) {
  guarded(data, [&](Builder& b) {
    b.text += static_cast<size_t>(length);
    if (!b.open.empty() && b.text <= kMaxText) b.open.back().text.append(text, static_cast<size_t>(length));
  });
}

void XMLCALL on_entity(void* data, const XML_Char*, int, const XML_Char*, int, const XML_Char*, const XML_Char*, const XML_Char*, const XML_Char*) {
  guarded(data, [](Builder& b) { b.stop("declares entities"); });
}

}  // namespace

std::string_view XmlElement::get(std::string_view attribute) const {
  for (const auto& [key, value] : attributes) {
    if (key == attribute) return value;
  }
  return "";
}
bool XmlElement::has(std::string_view attribute) const {
  return std::any_of(attributes.begin(), attributes.end(), [&](const auto& a) { return a.first == attribute; });
}
const XmlElement* XmlElement::child(std::string_view child_name) const {
  const auto found = std::find_if(children.begin(), children.end(), [&](const XmlElement& e) { return e.name == child_name; });
  return found == children.end() ? nullptr : &*found;
}

size_t find_xml_root(std::string_view text, std::string_view name) {
  for (size_t at = text.find('<'); at != text.npos; at = text.find('<', at)) {
    if (text.substr(at, 4) == "<!--") {
      const size_t end = text.find("-->", at + 4);
      if (end == text.npos) return text.npos;
      at = end + 3;
      continue;
    }
    const size_t after = at + 1 + name.size();
    if (text.substr(at + 1, name.size()) == name && after < text.size() &&
        (std::isspace(static_cast<unsigned char>(text[after])) || text[after] == '>')) {
      return at;
    }
    ++at;
  }
  return text.npos;
}

XmlDocument parse_xml(std::string_view text) {
  Builder builder;
  const std::unique_ptr<std::remove_pointer_t<XML_Parser>, decltype(&XML_ParserFree)> parser(XML_ParserCreate("UTF-8"), &XML_ParserFree);
  if (!parser) return builder.document;
  builder.parser = parser.get();
  XML_SetUserData(parser.get(), &builder);
  XML_SetElementHandler(parser.get(), on_start, on_end);
  XML_SetCharacterDataHandler(parser.get(), on_text);
  XML_SetEntityDeclHandler(parser.get(), on_entity);
  constexpr size_t kChunk = size_t{1} << 20;
  XML_Status status = XML_STATUS_OK;
  size_t at = 0;
  do {
    const size_t size = std::min(kChunk, text.size() - at);
    status = XML_Parse(parser.get(), text.data() + at, static_cast<int>(size), at + size == text.size());
    at += size;
  } while (status == XML_STATUS_OK && at < text.size());
  if (!builder.document.whole) {
    const std::string why = builder.refused.empty() ? XML_ErrorString(XML_GetErrorCode(parser.get())) : builder.refused;
    builder.document.error = "line " + std::to_string(XML_GetCurrentLineNumber(parser.get())) + ": " + why;
    while (!builder.open.empty()) builder.close();
  }
  return std::move(builder.document);
}

}  // namespace dsinfer::topology
