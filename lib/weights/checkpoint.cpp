#include "weights/checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "storage/http_answer.hpp"
#include "weights/dummy_storage.hpp"

namespace dsinfer {
namespace {

// A shard lies in the model's folder: a name that could leave it is refused.
void check_file_name(const std::string& name, const std::string& tensor, const std::string& index) {
  if (!is_plain_name(name))
    throw Error(Error::bad_format, fmt::format("{}: tensor {} lies in \"{}\", expected the plain name of a file in the same folder", index, shown(tensor), shown(name)));
}

// Runs a check. False: it found a problem and told it.
template <class Check> bool told(const Problems& problems, const Check& check) {
  if (!problems) {
    check();
    return true;
  }
  try {
    check();
    return true;
  } catch (const Error& problem) {
    if (problem.code() == Error::cancelled) throw;
    problems(problem);
    return false;
  }
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& model, Headers headers) : Checkpoint(std::shared_ptr<Storage>(open_weights(model.string())), headers) {}

Checkpoint::Checkpoint(std::shared_ptr<Storage> storage, Headers headers, const Problems& problems) : storage_(std::move(storage)), headers_(headers) {
  const std::string single = "model.safetensors", index = "model.safetensors.index.json";
  // A single file comes first where both are there, as in transformers.
  if (storage_->exists(single)) all_lost_ = !told(problems, [&] { add_file(single, nullptr, problems); });
  else if (storage_->exists(index)) all_lost_ = !told(problems, [&] { read_index(index, problems); });
  else throw Error(Error::not_found, storage_->name() + ": no weights: neither model.safetensors nor model.safetensors.index.json is there");
}

void Checkpoint::read_index(const std::string& index, const Problems& problems) {
  const std::string origin = storage_->name() + "/" + index;
  const Json parsed = parse_json(read_text(*storage_, index), origin, /*unique_keys=*/true);
  const JsonObject map = JsonObject(parsed, origin).object("weight_map");
  Wanted wanted;
  std::map<std::string, bool> names;  // of files, and whether one can be read
  for (const auto& [tensor, file] : map.raw().items()) {
    const bool placed = told(problems, [&, &tensor = tensor, &file = file] {
      if (!file.is_string()) throw Error(Error::bad_format, fmt::format("{}: weight_map gives no file name for tensor {}", origin, shown(tensor)));
      const auto& name = file.get_ref<const std::string&>();
      wanted.emplace(tensor, name);
      if (names.count(name)) return;
      names[name] = false;
      check_file_name(name, tensor, origin);
      if (!storage_->exists(name)) throw Error(Error::not_found, fmt::format("{}: shard {} is missing; {} says that it holds {}", storage_->name(), shown(name), index, shown(tensor)));
      names[name] = true;
    });
    if (!placed && !file.is_string()) lost_.insert(tensor);
  }
  if (names.empty()) throw Error(Error::bad_format, origin + ": weight_map names no tensor");
  for (const auto& [name, readable] : names)
    if (!readable || !told(problems, [&, &name = name] { add_file(name, &wanted, problems); })) lose(name, wanted);
  for (const auto& [tensor, name] : wanted)
    if (!tensors_.count(tensor) && !lost_.count(tensor))
      told(problems, [&, &tensor = tensor, &name = name] {
        throw Error(Error::bad_format, fmt::format("{}: names tensor {} in {}, but that file does not hold it", origin, shown(tensor), shown(name)));
      });
}

// What the index places in a file that was told to be unreadable.
void Checkpoint::lose(const std::string& file, const Wanted& wanted) {
  for (const auto& [tensor, name] : wanted)
    if (name == file) lost_.insert(tensor);
}

// Tensors that the index does not name are left alone, unless two files hold the same one.
void Checkpoint::add_file(const std::string& file, const Wanted* wanted, const Problems& problems) {
  const auto source = storage_->open(file);
  const std::string text = read_safetensors_text(*source);
  // A check looks at what is there of a file that was cut short.
  SafetensorsHeader header = parse_safetensors(text, source->size(), source->name(), problems || headers_ == Headers::may_stand_alone);
  if (source->size() < header.end && headers_ == Headers::with_data)
    told(problems, [&] { parse_safetensors(text, source->size(), source->name()); });
  header_hash_.add(fmt::format("{}:{}:", file, header.end));
  header_hash_.add(text);
  const int number = static_cast<int>(files_.size());
  files_.push_back({file, source->name(), header.end, source->size() < header.end, source->version(), source->path() != nullptr});
  for (auto& [name, entry] : header.tensors) {
    if (wanted) {
      const auto said = wanted->find(name);
      if (said == wanted->end()) continue;
      const bool here = told(problems, [&, &name = name] {
        if (said->second != file)
          throw Error(Error::bad_format, fmt::format("{}: holds tensor {}, which the index places in {}; a tensor may lie in one file only", source->name(), shown(name), shown(said->second)));
      });
      if (!here) continue;
    }
    tensors_.emplace(name, Location{number, std::move(entry)});
  }
}

std::unique_ptr<Source> Checkpoint::open(int file) const {
  const CheckpointFile& known = files_[static_cast<size_t>(file)];
  auto source = storage_->open(known.name);
  // A copy that was fetched meanwhile has a version of another kind.
  const bool comparable = known.local == (source->path() != nullptr);
  if (comparable && source->version() != known.version)
    throw Error(Error::io, fmt::format("{}: changed since its header was read ({}, now {}); load again when nobody writes to it", source->name(), shown(known.version), shown(source->version())));
  if (!known.cut_short && source->size() < known.size)
    throw Error(Error::io, fmt::format("{}: is {} bytes long, its header described {}; load again when nobody writes to it", source->name(), source->size(), known.size));
  return source;
}

const Location* Checkpoint::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace dsinfer
