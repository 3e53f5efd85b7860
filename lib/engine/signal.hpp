/// Signal: a descriptor for poll().
#pragma once
#include <sys/eventfd.h>
#include <unistd.h>

#include "dsinfer/error.hpp"

namespace dsinfer {

/// Readable while it is raised. Any thread.
class Signal {
 public:
  Signal() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (fd_ < 0) throw Error(Error::io, "eventfd: the process has no file descriptor left; raise its limit (ulimit -n)");
  }
  ~Signal() { close(fd_); }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  int fd() const { return fd_; }
  void raise() { eventfd_write(fd_, 1); }
  void lower() { eventfd_t count; eventfd_read(fd_, &count); }

 private:
  int fd_;
};

}  // namespace dsinfer
