// Engines that are asked from other threads, cancelled, left in mid-answer, or lose a rank.
#include <poll.h>

#include <atomic>
#include <cmath>

#include "engine_runs.hpp"

namespace dsinfer {
namespace {

using namespace test;
using ::testing::HasSubstr;

TEST(Engine, CancelsAtAnyTime) {
  auto world = single_world();
  Engine engine(*world, small("tp=1", 1));
  const uint64_t first = engine.submit(ask(1, 8, 50)), second = engine.submit(ask(2, 8, 50)), third = engine.submit(ask(3, 8, 5));
  EXPECT_TRUE(engine.cancel(second));
  std::vector<Event> events;
  for (int i = 0; i < 3; ++i) engine.step(events, 0ms);
  EXPECT_TRUE(engine.cancel(first));
  EXPECT_TRUE(engine.cancel(first));
  std::map<uint64_t, Outcome> outcomes = finish(engine, 2);
  EXPECT_EQ(outcomes.at(first).last().reason, FinishReason::cancelled);
  EXPECT_EQ(outcomes.at(third).last().reason, FinishReason::length);
  const auto cancelled = std::find_if(events.begin(), events.end(), [&](const Event& e) { return e.request == second; });
  ASSERT_NE(cancelled, events.end());
  EXPECT_EQ(cancelled->reason, FinishReason::cancelled);
  EXPECT_FALSE(engine.cancel(first));
  EXPECT_FALSE(engine.cancel(99));
  EXPECT_EQ(engine.stats().pages_used, 0);
  EXPECT_EQ(engine.stats().requests_finished, 3u);
}

TEST(Engine, TakesSubmitAndCancelFromAnyThreadWhileItSteps) {
  on_threads(4, [&](World& world) {
    EngineOptions options = small("tp=2,dp=2,ep=4", 4);
    Engine engine(world, options);
    if (world.rank() != 0) {
      while (engine.follow(100ms) != StepResult::shutdown) {}
      return;
    }
    constexpr int kClients = 3, kEach = 6;
    std::vector<std::thread> clients;
    for (int c = 0; c < kClients; ++c) {
      clients.emplace_back([&engine, c] {
        for (int i = 0; i < kEach; ++i) {
          const uint64_t id = engine.submit(ask(c * 10 + i, 5 + i, 6));
          if (i % 2) engine.cancel(id);
          EXPECT_GE(engine.stats().pages_total, 0);
        }
      });
    }
    size_t ended = 0;
    for (const auto& [id, outcome] : finish(engine, kClients * kEach)) {
      ended += outcome.last().kind == Event::Kind::finished;
      EXPECT_EQ(std::count_if(outcome.events.begin(), outcome.events.end(), [](const Event& e) { return e.kind == Event::Kind::finished; }), 1);
    }
    EXPECT_EQ(ended, static_cast<size_t>(kClients * kEach));
    for (std::thread& client : clients) client.join();
  });
}

TEST(Engine, HasADescriptorThatIsReadableWhileThereIsSomethingToDo) {
  auto world = single_world();
  Engine engine(*world, small("tp=1", 1));
  const auto readable = [&] {
    pollfd entry{engine.event_fd(), POLLIN, 0};
    return poll(&entry, 1, 0) == 1;
  };
  EXPECT_FALSE(readable());
  engine.submit(ask(1, 4, 2));
  EXPECT_TRUE(readable());
  finish(engine, 1);
  EXPECT_FALSE(readable());
  std::vector<Event> events;
  EXPECT_EQ(engine.step(events, 1ms), StepResult::idle);
  engine.shutdown();
  EXPECT_EQ(engine.step(events, 1ms), StepResult::shutdown);
  EXPECT_THROW(engine.submit(ask(1, 4)), Error);
}

TEST(Engine, LetsFollowersGoWhenTheLeaderIsDestroyedInMidAnswer) {
  std::atomic<int> gone{0};
  on_threads(4, [&](World& world) {
    Engine engine(world, small("tp=2,pp=2", 4));
    if (world.rank() == 0) {
      engine.submit(ask(1, 60, 30));
      std::vector<Event> events;
      engine.step(events, 0ms);
      return;
    }
    while (engine.follow(50ms) != StepResult::shutdown) {}
    ++gone;
  });
  EXPECT_EQ(gone, 3);
}

TEST(Engine, GivesUpWaitingForARankThoughARequestIsCancelledDuringShutdown) {
  std::atomic<bool> over{false};
  on_threads(2, [&](World& world) {
    world.set_stall_timeout(2s);
    Engine engine(world, small("pp=2", 2));
    if (world.rank() != 0) {
      while (!over) std::this_thread::sleep_for(1ms);
      return;
    }
    const uint64_t id = engine.submit(ask(1, 8, 50));
    std::vector<Event> events;
    engine.step(events, 0ms);
    std::thread ending([&] {
      try {
        engine.shutdown();
        ADD_FAILURE() << "the other rank has not answered";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), Error::stalled) << e.what();
      }
    });
    for (bool down = false; !down; std::this_thread::sleep_for(1ms)) {
      try {
        engine.cancel(engine.submit(ask(2, 4)));
      } catch (const Error& e) {
        down = std::string(e.what()).find("shutdown") != std::string::npos;
      }
    }
    EXPECT_TRUE(engine.cancel(id));
    ending.join();
    over = true;
  });
}

TEST(Engine, RefusesAFaultThatItCannotRead) {
  for (const char* value : {"2", "2:", ":4", "two:4", "2:4x", "-1:4", "2:-4", "", "2:99999999999999999999", "2:4:6"}) {
    setenv("DSINFER_FAULT", value, 1);
    on_threads(1, [&](World& world) {
      try {
        Engine engine(world, small("tp=1", 1));
        ADD_FAILURE() << "\"" << value << "\" was taken";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), Error::invalid_argument) << e.what();
        EXPECT_THAT(e.what(), HasSubstr("DSINFER_FAULT is \"" + std::string(value) + "\", expected RANK:STEP"));
      }
    });
  }
  unsetenv("DSINFER_FAULT");
}

TEST(Engine, EndsOnAllRanksWithOneTextWhenARankFailsInAStep) {
  setenv("DSINFER_FAULT", "2:4", 1);
  std::vector<std::string> texts(4), later(4);
  on_threads(4, [&](World& world) {
    const auto rank = static_cast<size_t>(world.rank());
    Engine engine(world, small("tp=2,pp=2", 4));
    std::vector<Event> events;
    const auto work = [&] {
      if (rank != 0) while (engine.follow(100ms) != StepResult::shutdown) {}
      else for (engine.submit(ask(1, 8, 50));;) engine.step(events, 100ms);
    };
    try {
      work();
    } catch (const Error& e) {
      texts[rank] = e.what();
    }
    try {
      if (rank != 0) engine.follow(1ms);
      else engine.submit(ask(1, 4));
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::group_failed);
      later[rank] = e.what();
    }
  });
  unsetenv("DSINFER_FAULT");
  for (const std::string& text : texts) EXPECT_THAT(text, HasSubstr("injected"));
  for (const std::string& text : later) EXPECT_THAT(text, HasSubstr("injected"));
}

}  // namespace
}  // namespace dsinfer
