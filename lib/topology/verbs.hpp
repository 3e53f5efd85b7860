/// libibverbs by the functions that it exports, taken at run time: the types come from its header, no symbol is linked.
#pragma once
#ifdef DSINFER_VERBS
#include <infiniband/verbs.h>

#include <string>

#include "topology/shared_library.hpp"

namespace dsinfer::topology {

/// The functions; null where this version lacks one. Posting and polling go through the device's own table (ibv_context::ops), as the
/// header's inline functions do.
struct VerbsApi {
  SharedLibrary library;
  ibv_device** (*get_device_list)(int*) = nullptr;
  void (*free_device_list)(ibv_device**) = nullptr;
  const char* (*device_name)(ibv_device*) = nullptr;
  __be64 (*device_guid)(ibv_device*) = nullptr;
  ibv_context* (*open_device)(ibv_device*) = nullptr;
  int (*close_device)(ibv_context*) = nullptr;
  int (*query_device)(ibv_context*, ibv_device_attr*) = nullptr;
  /// The symbol behind the header's macro of that name: it fills the structure's first part alone, up to link_layer.
  int (*query_port_compat)(ibv_context*, uint8_t, _compat_ibv_port_attr*) = nullptr;
  int (*query_gid)(ibv_context*, uint8_t, int, ibv_gid*) = nullptr;
  int (*query_gid_type)(ibv_context*, uint8_t, unsigned, int*) = nullptr;  ///< 0 IB or RoCE v1, 1 RoCE v2
  ssize_t (*query_gid_table)(ibv_context*, ibv_gid_entry*, size_t, uint32_t, size_t) = nullptr;
  ibv_pd* (*alloc_pd)(ibv_context*) = nullptr;
  int (*dealloc_pd)(ibv_pd*) = nullptr;
  ibv_mr* (*reg_mr)(ibv_pd*, void*, size_t, int) = nullptr;
  int (*dereg_mr)(ibv_mr*) = nullptr;
  ibv_cq* (*create_cq)(ibv_context*, int, void*, ibv_comp_channel*, int) = nullptr;
  int (*destroy_cq)(ibv_cq*) = nullptr;
  ibv_qp* (*create_qp)(ibv_pd*, ibv_qp_init_attr*) = nullptr;
  int (*modify_qp)(ibv_qp*, ibv_qp_attr*, int) = nullptr;
  int (*destroy_qp)(ibv_qp*) = nullptr;

  explicit VerbsApi(const std::string& file);
  bool can_list() const { return get_device_list && free_device_list && device_name && open_device && close_device; }
  bool can_connect() const {
    return can_list() && query_port_compat && alloc_pd && dealloc_pd && reg_mr && dereg_mr && create_cq && destroy_cq && create_qp && modify_qp && destroy_qp;
  }
  /// As ibv_query_port: all of the structure where the device can tell it.
  int query_port(ibv_context* context, uint8_t port, ibv_port_attr* attributes) const;
};

}  // namespace dsinfer::topology
#endif
