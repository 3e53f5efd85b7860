#include "topology/verbs.hpp"
#ifdef DSINFER_VERBS
#include <cerrno>
#include <cstring>

namespace dsinfer::topology {

VerbsApi::VerbsApi(const std::string& file) : library(file) {
  const char* v1 = "IBVERBS_1.1";  // 1.0 is another interface under the same names
  library.find(get_device_list, "ibv_get_device_list", v1);
  library.find(free_device_list, "ibv_free_device_list", v1);
  library.find(device_name, "ibv_get_device_name", v1);
  library.find(device_guid, "ibv_get_device_guid", v1);
  library.find(open_device, "ibv_open_device", v1);
  library.find(close_device, "ibv_close_device", v1);
  library.find(query_device, "ibv_query_device", v1);
  library.find(query_port_compat, "ibv_query_port", v1);
  library.find(query_gid, "ibv_query_gid", v1);
  library.find(query_gid_type, "ibv_query_gid_type");
  library.find(query_gid_table, "_ibv_query_gid_table", "IBVERBS_1.11");
  library.find(alloc_pd, "ibv_alloc_pd", v1);
  library.find(dealloc_pd, "ibv_dealloc_pd", v1);
  library.find(reg_mr, "ibv_reg_mr", v1);
  library.find(dereg_mr, "ibv_dereg_mr", v1);
  library.find(create_cq, "ibv_create_cq", v1);
  library.find(destroy_cq, "ibv_destroy_cq", v1);
  library.find(create_qp, "ibv_create_qp", v1);
  library.find(modify_qp, "ibv_modify_qp", v1);
  library.find(destroy_qp, "ibv_destroy_qp", v1);
}

int VerbsApi::query_port(ibv_context* context, uint8_t port, ibv_port_attr* attributes) const {
  std::memset(attributes, 0, sizeof *attributes);
  if (verbs_context* extended = verbs_get_ctx_op(context, query_port)) return extended->query_port(context, port, attributes, sizeof *attributes);
  return query_port_compat ? query_port_compat(context, port, reinterpret_cast<_compat_ibv_port_attr*>(attributes)) : ENOSYS;
}

}  // namespace dsinfer::topology
#endif
