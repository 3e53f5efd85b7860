/// The switches of the fake libibverbs, by its exported function `fake_verbs()`.
#pragma once

struct FakeVerbs {
  int devices = 0;          ///< listed; -1: no list, errno ENOSYS
  bool refuse_open = false; ///< the last device cannot be opened (EPERM)
  bool ethernet = true;
  bool old_kernel = false;  ///< no table of GIDs in one call
  int no_route_to = -1;     ///< a queue pair of this device number cannot be connected to (ETIMEDOUT)
  int black_hole = -1;      ///< what is written to this device number does not arrive (completion with status 12)
  bool isolated = false;    ///< devices of even and of odd number do not reach each other (no route)
  bool silent = false;      ///< written data vanish, and no completion comes either
  int open_objects = 0;     ///< devices, domains, memories, queues that were made and not given back
};
