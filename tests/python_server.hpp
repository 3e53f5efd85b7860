/// A server in Python for one test program: started with a folder as its argument, says its port, ends when its input does.
#pragma once
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace dsinfer {

class PythonServer {
 public:
  PythonServer(const std::string& script, const std::string& folder) {
    int to[2], from[2];
    if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0) return;
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(to[0], 0);
      ::dup2(from[1], 1);
      ::unsetenv("LD_PRELOAD");
      ::execl(DSINFER_TEST_PYTHON, DSINFER_TEST_PYTHON, script.c_str(), folder.c_str(), static_cast<char*>(nullptr));
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    input_ = to[1];
    char c = 0;
    while (::read(from[0], &c, 1) == 1 && c != '\n') said_ += c;
    ::close(from[0]);
  }
  PythonServer(const PythonServer&) = delete;
  PythonServer& operator=(const PythonServer&) = delete;
  ~PythonServer() {
    if (input_ >= 0) ::close(input_);
    if (child_ > 0) ::waitpid(child_, nullptr, 0);
  }
  /// 0: it did not start.
  int port() const { return std::atoi(said_.c_str()); }

 private:
  pid_t child_ = -1;
  int input_ = -1;
  std::string said_;
};

}  // namespace dsinfer
