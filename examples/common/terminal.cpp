#include "common/terminal.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>

#include "common/ranks.hpp"

namespace example {
namespace {

constexpr char kCtrlC = 3;

volatile sig_atomic_t interrupt_seen = 0;
std::atomic<int> terminal_fd{-1};  // where mpirun reads what is typed, while its Ctrl-C is ours
termios terminal_before;

void on_interrupt(int) { interrupt_seen = 1; }

void on_terminate(int number) {
  restore_terminal();
  signal(number, SIG_DFL);
  raise(number);
}

void handle(int number, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(number, &action, nullptr);
}

// mpirun started this rank itself, and reads from a terminal: that one.
int open_launcher_terminal() {
  const std::string path = "/proc/" + std::to_string(getppid()) + "/fd/0";
  const int fd = open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0 && isatty(fd)) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

// Changes a terminal that belongs to another process group: the kernel would stop us with SIGTTOU.
void set_terminal(int fd, const termios& mode) noexcept {
  sigset_t block, before;
  sigemptyset(&block);
  sigaddset(&block, SIGTTOU);
  sigprocmask(SIG_BLOCK, &block, &before);
  tcsetattr(fd, TCSANOW, &mode);
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

void catch_interrupts(bool leader) {
  handle(SIGINT, leader ? on_interrupt : SIG_IGN);
  if (!leader || launcher_rank() < 0) return;
  const int fd = open_launcher_terminal();
  if (fd < 0 || tcgetattr(fd, &terminal_before) != 0) return;
  termios mode = terminal_before;
  mode.c_cc[VINTR] = _POSIX_VDISABLE;  // no signal to mpirun …
  mode.c_cc[VEOL] = kCtrlC;            // … but a character that ends the line, so that it arrives at once
  for (const int number : {SIGTERM, SIGHUP, SIGQUIT, SIGABRT, SIGSEGV}) handle(number, on_terminate);
  terminal_fd = fd;
  set_terminal(fd, mode);
}

void restore_terminal() noexcept {
  const int fd = terminal_fd.exchange(-1);
  if (fd >= 0) set_terminal(fd, terminal_before);
}

bool interrupted() {
  const bool seen = interrupt_seen != 0;
  interrupt_seen = 0;
  return seen;
}

bool LineReader::interactive() { return isatty(STDIN_FILENO) || terminal_fd >= 0; }

void LineReader::fill(std::chrono::milliseconds timeout) {
  pollfd waiting{STDIN_FILENO, POLLIN, 0};
  if (end_ || poll(&waiting, 1, static_cast<int>(timeout.count())) <= 0) return;
  char bytes[4096];
  const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
  if (count < 0) return;
  if (count == 0) end_ = true;
  typed_.append(bytes, static_cast<size_t>(count));
  if (const size_t at = typed_.rfind(kCtrlC); at != std::string::npos && terminal_fd >= 0) {
    typed_.erase(0, at + 1);
    interrupt_seen = 1;
  }
}

LineReader::State LineReader::next(std::string& line, std::chrono::milliseconds timeout) {
  if (typed_.find('\n') == std::string::npos) fill(timeout);
  const size_t newline = typed_.find('\n');
  if (newline == std::string::npos && !(end_ && !typed_.empty())) return end_ ? State::end : State::nothing;
  line = typed_.substr(0, newline);
  typed_.erase(0, newline == std::string::npos ? newline : newline + 1);
  return State::line;
}

dsinfer::ProgressCallback loading_progress(int rank, int ranks) {
  auto percent = std::make_shared<int>(-1);
  return [=](const dsinfer::LoadProgress& p) {
    const double share = p.bytes_total > 0 ? static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total) : 1;
    const bool done = p.bytes_done >= p.bytes_total;
    const bool known = p.bytes_total > 0 || p.seconds > 0;  // else a server is being waited for
    if (rank == 0 && known && static_cast<int>(share * 100) > *percent) {
      *percent = static_cast<int>(share * 100);
      const double megabytes = static_cast<double>(p.bytes_done) * 1e-6;
      if (isatty(STDERR_FILENO)) {
        std::string bar(30, ' ');
        bar.replace(0, static_cast<size_t>(share * 30), static_cast<size_t>(share * 30), '#');
        std::fprintf(stderr, "\rloading (rank 0 of %d) [%s] %3d %% of %.1f MB%s", ranks, bar.c_str(), *percent, static_cast<double>(p.bytes_total) * 1e-6,
                     done ? "\r\033[K" : "");
      } else if (done) {
        std::fprintf(stderr, "loaded %.1f MB in %.2f s (rank 0 of %d)\n", megabytes, p.seconds, ranks);
      }
    }
    return interrupt_seen == 0;
  };
}

}  // namespace example
