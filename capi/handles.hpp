/// What stands behind the C handles, and the two tools of every C function: guard() and the readers of option structs.
#pragma once
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer.h"
#include "dsinfer/dsinfer.hpp"

namespace dsinfer::capi {

/// A World and what it stands on: a split must not outlive its parent.
struct HeldWorld {
  std::shared_ptr<HeldWorld> parent;
  std::unique_ptr<World> world;
};

/// Remembers what went wrong for dsinfer_last_error() of this thread; gives the status.
dsinfer_status remember(const Error& error) noexcept;
dsinfer_status remember(Error::Code code, const char* text) noexcept;
void forget() noexcept;

/// Runs `work` behind the C boundary: no exception crosses it.
template <class Work>
dsinfer_status guard(Work&& work) noexcept {
  forget();
  try {
    work();
    return DSINFER_OK;
  } catch (const Error& error) {
    return remember(error);
  } catch (const std::bad_alloc&) {
    return remember(Error::out_of_memory, "out of memory");
  } catch (const std::exception& error) {
    return remember(Error::internal, error.what());
  } catch (...) {
    return remember(Error::internal, "an exception of unknown type");
  }
}

/// The object behind an argument that must be there.
template <class T>
T& need(T* argument, const char* name) {
  if (!argument) throw Error(Error::invalid_argument, std::string(name) + " is NULL; it is required");
  return *argument;
}
/// *out = make(), where `out` is checked before anything is made.
template <class T, class Make>
void give(T* out, const char* name, Make&& make) {
  need(out, name);
  *out = make();
}
inline const char* need_text(const char* argument, const char* name) { return &need(argument, name); }
inline std::string_view view(dsinfer_text text, const char* name) {
  if (!text.data && text.size) throw Error(Error::invalid_argument, std::string(name) + ": data is NULL, size " + std::to_string(text.size));
  return {text.data ? text.data : "", static_cast<size_t>(text.size)};
}
inline dsinfer_text borrow(const std::string& text) { return {text.data(), text.size()}; }
template <class T>
const T* need_array(const T* data, uint64_t size, const char* name) {
  if (!data && size) throw Error(Error::invalid_argument, std::string(name) + " is NULL, its length " + std::to_string(size));
  return data;
}

/// Checks a struct of `size` bytes at `data`, of which this library knows `known` and the first release had `first`: too short, or
/// bytes this library does not know that are not zero, throw.
void check_struct(const void* data, uint64_t size, size_t known, size_t first, const char* name);

/// The caller's struct as this library knows it; fields that the caller's header did not have yet are zero. `first` is the size in 0.1.
template <class T>
T read_struct(const T* given, size_t first, const char* name) {
  check_struct(&need(given, name), given->struct_size, sizeof(T), first, name);
  T copy{};
  std::memcpy(&copy, given, static_cast<size_t>(given->struct_size < sizeof(T) ? given->struct_size : sizeof(T)));
  return copy;
}
/// Throws invalid_argument for a number that is none of the enumeration's.
template <class Enum> Enum enum_of(int32_t value, Enum last, const char* name) {
  if (value < 0 || value > static_cast<int32_t>(last))
    throw Error(Error::invalid_argument, std::string(name) + " is " + std::to_string(value) + ", expected 0 to " + std::to_string(static_cast<int32_t>(last)));
  return static_cast<Enum>(value);
}
/// Fills the caller's struct as far as its header knew it.
template <class T>
void write_struct(T* out, T value, size_t first, const char* name) {
  const uint64_t size = need(out, name).struct_size;
  check_struct(nullptr, size, sizeof(T), first, name);
  value.struct_size = size;
  std::memcpy(out, &value, static_cast<size_t>(size < sizeof(T) ? size : sizeof(T)));
}

/// Elements of an array of structs whose size the caller's header knew as `stride`.
template <class T>
T read_element(const T* array, uint64_t stride, uint64_t i, const char* name) {
  const char* at = reinterpret_cast<const char*>(array) + i * stride;
  check_struct(at, stride, sizeof(T), sizeof(T), name);
  T copy{};
  std::memcpy(&copy, at, sizeof(T));
  return copy;
}

/// Two-call sizing of text; the final NUL counts.
void give_text(const std::string& text, char* buffer, uint64_t capacity, uint64_t* needed);
/// Two-call sizing of arrays.
template <class T>
void give_array(const std::vector<T>& values, T* out, uint64_t capacity, uint64_t* needed) {
  need(needed, "needed") = values.size();
  if (!out && capacity == 0) return;
  if (capacity < values.size() || !out) {
    throw Error(Error::invalid_argument, "room for " + std::to_string(capacity) + " elements, needed " + std::to_string(values.size()));
  }
  if (!values.empty()) std::memcpy(out, values.data(), values.size() * sizeof(T));
}

/// Shared by forward.cpp and engine.cpp.
ForwardOptions forward_options(const dsinfer_forward_options* given);
/// NULL: the usual.
LoadOptions load_options(const dsinfer_load_options* given);

}  // namespace dsinfer::capi

struct dsinfer_world {
  std::shared_ptr<dsinfer::capi::HeldWorld> held;
  std::vector<std::string> texts;  ///< what the last call gave back
  dsinfer::World& world() const { return *held->world; }
};
struct dsinfer_config {
  dsinfer::ModelConfig config;
};
struct dsinfer_plan {
  dsinfer::Plan plan;
};
struct dsinfer_fleet {
  dsinfer::Fleet fleet;
};
struct dsinfer_answer {
  dsinfer::SolveAnswer answer;
};
struct dsinfer_tokenizer {
  dsinfer::Tokenizer tokenizer;
};
