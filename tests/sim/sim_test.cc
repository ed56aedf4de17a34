// Pairs and meshes of cores under faults: whatever happens, in the end each
// pair has one IKE_SA with one CHILD_SA, and nothing was lost or repeated on
// the way (DESIGN sections 3, 4, 9).
#include <gtest/gtest.h>

#include "agent/wire/message.h"
#include "tests/sim/seeds.h"
#include "tests/sim/world.h"

namespace espalier::sim {
namespace {

// Enough that a lost rule shows, few enough for CI.
constexpr int kSeeds = 60;

WorldOptions Quiet() {
  WorldOptions options;
  options.core = QuickCore();
  return options;
}

// Loss, duplicates and reordering that retransmission survives.
WorldOptions Rough() {
  WorldOptions options = Quiet();
  options.network_faults = {.loss = 0.15,
                            .duplicate = 0.1,
                            .min_delay = absl::Milliseconds(1),
                            .max_delay = absl::Milliseconds(400)};
  options.node_faults = {.max_crypto_delay = absl::Milliseconds(200),
                         .max_datapath_delay = absl::Milliseconds(200)};
  return options;
}

// Half of the seeds each.
WorldOptions QuietOrRough(uint64_t seed) {
  return seed % 2 == 0 ? Quiet() : Rough();
}

// All start and have time to agree; then come `rounds` of what `round` asks
// for, `apart` from each other; then all must be well.
void Rounds(World& world, int rounds, absl::Duration apart,
            const std::function<void()>& round) {
  world.StartAll();
  world.RunFor(absl::Seconds(20));
  for (int i = 0; i < rounds; ++i) {
    round();
    world.RunFor(apart);
  }
  world.Settle();
}

// The same with `count` things at random times within a minute, each asked of
// a random end.
void AtRandom(World& world, int count,
              const std::function<void(int end)>& what) {
  Rounds(world, 1, absl::Seconds(60), [&] {
    for (int i = 0; i < count; ++i) {
      world.Sometime(absl::Seconds(60), [&world, &what] {
        what(static_cast<int>(world.chance().Between(0, 1)));
      });
    }
  });
}

// Of either kind, `children` of all parts of the CHILD_SA.
void RekeySomething(World& world, int end, double children) {
  if (world.chance().Happens(children)) {
    world.node(end).RekeyChildSa(1 - end);
  } else {
    world.node(end).RekeyIkeSa(1 - end);
  }
}

TEST(SimTest, OneInitiatorOnAQuietNetwork) {
  ForSeeds(10, Quiet(), [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(5));
    world.Settle();
    EXPECT_GT(world.packets_received(), 100u);
    // A few may be under way.
    EXPECT_GE(world.packets_received() + world.packets_early() + 2,
              world.packets_sent());
  });
}

TEST(SimTest, StartOnARoughNetwork) {
  ForSeeds(kSeeds, Rough(), [](World& world) {
    world.StartAll(absl::Seconds(5));
    world.RunFor(absl::Seconds(30));
    world.Settle();
  });
}

TEST(SimTest, BothStartAtOnce) {
  ForSeeds(
      2 * kSeeds,
      [](uint64_t seed) {
        WorldOptions options = seed % 2 == 0 ? Quiet() : Rough();
        options.both_initiate = true;
        options.public_keys = seed % 4 == 0;
        return options;
      },
      [](World& world) {
        world.StartAll(absl::Milliseconds(5));
        world.RunFor(absl::Seconds(20));
        world.Settle();
      });
}

void RekeySimultaneously(World& world, double children) {
  Rounds(world, 5, absl::Seconds(12), [&] {
    for (int end : {0, 1}) {
      world.Sometime(absl::Milliseconds(30), [&world, end, children] {
        RekeySomething(world, end, children);
      });
    }
  });
}

TEST(SimTest, SimultaneousChildRekeys) {
  ForSeeds(kSeeds, QuietOrRough,
           [](World& world) { RekeySimultaneously(world, 1); });
}

TEST(SimTest, SimultaneousIkeRekeys) {
  ForSeeds({kSeeds, {563}}, QuietOrRough,
           [](World& world) { RekeySimultaneously(world, 0); });
}

// Whatever kind of rekey meets whatever other.
TEST(SimTest, RekeysOfBothKindsAtRandom) {
  ForSeeds(kSeeds, Rough(), [](World& world) {
    AtRandom(world, 24, [&](int end) { RekeySomething(world, end, 0.5); });
  });
}

// Messages of several datagrams, of which each may be lost or come twice.
TEST(SimTest, FragmentsOnARoughNetwork) {
  WorldOptions options = Rough();
  options.public_keys = true;
  options.core.fragment_size = 140;
  options.max_datagrams_per_second = 150;
  ForSeeds(kSeeds, options, [](World& world) {
    AtRandom(world, 12, [&](int end) { RekeySomething(world, end, 0.5); });
  });
}

// What each end is told about the other changes, with a new IKE_SA or without,
// while rekeys go on.
TEST(SimTest, ConfigurationsChangeWhileTunnelsRun) {
  ForSeeds({kSeeds, {399}}, QuietOrRough, [](World& world) {
    AtRandom(world, 12, [&](int end) {
      Chance& chance = world.chance();
      if (chance.Happens(0.3)) return RekeySomething(world, end, 0.5);
      World::Change change = world.ChangeOf(end, 1 - end);
      const bool anew = chance.Happens(0.5);
      if (anew) {
        change.force_encapsulation = !change.force_encapsulation;
      } else {
        change.narrow = chance.Happens(0.5);
        change.other_cipher_first = chance.Happens(0.5);
      }
      world.Reconfigure(end, 1 - end, change, anew);
    });
    const bool forced = world.ChangeOf(0, 1).force_encapsulation ||
                        world.ChangeOf(1, 0).force_encapsulation;
    for (int end : {0, 1}) {
      for (const ike::IkeSaInfo& sa : world.node(end).core()->IkeSas()) {
        for (const ike::ChildSaInfo& child : sa.children) {
          EXPECT_EQ(child.encapsulated, forced);
        }
      }
    }
  });
}

// Both directions carry as much, so that all four limits come at once.
void RekeyByLimits(const base::SaLimits& limits) {
  WorldOptions options = Rough();
  options.core.child_limits = limits;
  ForSeeds(20, options, [](World& world) {
    world.StartAll();
    world.RunFor(absl::Minutes(3));
    int agreed = 0;
    for (int i = 0; i < 60; ++i) {
      world.RunFor(absl::Seconds(1));
      agreed += world.Agreed();
    }
    EXPECT_GT(agreed, 0);
    EXPECT_GT(world.packets_received(), 8000u);
    EXPECT_GT(world.node(0).core()->counters().child_sas_established, 10u);
  });
}

TEST(SimTest, LimitsInOctetsRekeyWithoutLoss) {
  RekeyByLimits({.soft_bytes = 200'000, .hard_bytes = 2'000'000});
}

TEST(SimTest, LimitsInPacketsRekeyWithoutLoss) {
  RekeyByLimits({.soft_packets = 200, .hard_packets = 2'000});
}

TEST(SimTest, DeletesCollideWithEverything) {
  WorldOptions options = Rough();
  options.hitless = false;
  ForSeeds({kSeeds, {398}}, options, [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(15));
    for (int i = 0; i < 20; ++i) {
      world.Sometime(absl::Seconds(60), [&world] {
        const int end = static_cast<int>(world.chance().Between(0, 1));
        switch (world.chance().Between(0, 3)) {
          case 0:
            world.node(end).RekeyChildSa(1 - end);
            break;
          case 1:
            world.node(end).RekeyIkeSa(1 - end);
            break;
          case 2:
            world.node(end).Delete(1 - end);
            break;
          case 3:
            world.node(0).Delete(1);
            world.node(1).Delete(0);
        }
      });
    }
    world.RunFor(absl::Seconds(60));
    world.Settle();
  });
}

TEST(SimTest, LifetimesRekeyWithoutLoss) {
  WorldOptions options = Rough();
  options.core.child_limits = {.soft_time = absl::Seconds(20),
                               .hard_time = absl::Minutes(5)};
  options.core.ike_soft_lifetime = absl::Seconds(50);
  options.core.ike_hard_lifetime = absl::Minutes(10);
  ForSeeds(20, options, [](World& world) {
    world.StartAll();
    world.RunFor(absl::Minutes(5));
    // Rekeys go on: it is enough that the pair agrees now and then.
    int agreed = 0;
    for (int i = 0; i < 60; ++i) {
      world.RunFor(absl::Seconds(1));
      agreed += world.Agreed();
    }
    EXPECT_GT(agreed, 0);
    // Two in each interval once it is up; a few are under way.
    EXPECT_GT(world.packets_sent(), 13900u);
    EXPECT_GE(world.packets_received() + world.packets_early() + 40,
              world.packets_sent());
  });
}

TEST(SimTest, CrashAndRestartLosesNoPacket) {
  ForSeeds({kSeeds, {849}}, QuietOrRough, [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(20));
    for (int i = 0; i < 3; ++i) {
      const int end = static_cast<int>(world.chance().Between(0, 1));
      world.node(end).Crash();
      world.RunFor(
          world.chance().Between(absl::Milliseconds(10), absl::Seconds(40)));
      world.node(end).Start();
      world.RunFor(
          world.chance().Between(absl::Milliseconds(10), absl::Seconds(30)));
    }
    world.Settle();
  });
}

TEST(SimTest, BothCrash) {
  ForSeeds(kSeeds, QuietOrRough, [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(20));
    for (int end : {0, 1}) {
      world.Sometime(absl::Seconds(1),
                     [&world, end] { world.node(end).Crash(); });
    }
    world.RunFor(absl::Seconds(2));
    for (int end : {0, 1}) {
      world.Sometime(absl::Seconds(3),
                     [&world, end] { world.node(end).Start(); });
    }
    world.RunFor(absl::Seconds(20));
    world.Settle();
  });
}

// Longer than retransmission lasts: both ends give the other up.
TEST(SimTest, PartitionHeals) {
  ForSeeds(kSeeds, Rough(), [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(15));
    for (int i = 0; i < 2; ++i) {
      world.network().Cut(world.AddressOf(0), world.AddressOf(1), true);
      world.RunFor(world.chance().Between(absl::Seconds(1), absl::Minutes(2)));
      world.network().Cut(world.AddressOf(0), world.AddressOf(1), false);
      world.RunFor(world.chance().Between(absl::Seconds(1), absl::Seconds(40)));
    }
    world.Settle();
  });
}

TEST(SimTest, NatRebinds) {
  ForSeeds(
      kSeeds,
      [](uint64_t seed) {
        WorldOptions options = seed % 2 == 0 ? Quiet() : Rough();
        options.nat = true;
        return options;
      },
      [](World& world) {
        world.StartAll();
        world.RunFor(absl::Seconds(20));
        for (int i = 0; i < 4; ++i) {
          world.Sometime(absl::Seconds(60), [&world] {
            world.network().Rebind(world.AddressOf(0));
          });
        }
        world.RunFor(absl::Seconds(60));
        world.Settle();
      });
}

TEST(SimTest, CryptoAndDatapathFail) {
  WorldOptions options = Rough();
  options.node_faults.crypto_failure = 0.1;
  options.node_faults.datapath_failure = 0.1;
  options.hitless = false;
  ForSeeds({kSeeds, {525}}, options, [](World& world) {
    AtRandom(world, 12, [&](int end) { RekeySomething(world, end, 0.7); });
  });
}

// The first packet makes the tunnel, at either end or both; either closes it.
TEST(SimTest, TunnelsOnDemand) {
  ForSeeds(
      {kSeeds, {787}},
      [](uint64_t seed) {
        WorldOptions options = QuietOrRough(seed);
        options.on_demand = true;
        options.hitless = false;
        return options;
      },
      [](World& world) {
        AtRandom(world, 12, [&](int end) {
          if (world.chance().Happens(0.3)) {
            RekeySomething(world, end, 0.5);
          } else {
            world.node(end).Close(1 - end);
          }
        });
        EXPECT_GT(world.packets_received(), 100u);
      });
}

// RFC 9611: beside the fallback SA each CPU has one, and they are rekeyed, and
// left by an agent that dies, like any other. It dies once: another death
// within the second in which what it found is removed leaves CPUs on SAs that
// the peer has let go, which no newer SA of all CPUs displaces.
TEST(SimTest, CpusHaveTheirOwn) {
  ForSeeds(
      kSeeds,
      [](uint64_t seed) {
        WorldOptions options = QuietOrRough(seed);
        options.cpus = 3;
        options.max_datagrams_per_second = 120;
        return options;
      },
      [](World& world) {
        world.scheduler().After(absl::Seconds(40), [&world] {
          const int end = static_cast<int>(world.chance().Between(0, 1));
          world.node(end).Crash();
          world.scheduler().After(
              world.chance().Between(absl::Milliseconds(10), absl::Seconds(9)),
              [&world, end] { world.node(end).Start(); });
        });
        AtRandom(world, 8, [&](int end) { RekeySomething(world, end, 0.5); });
      });
}

// Everything at once, in a small mesh.
TEST(SimTest, MeshUnderEveryFault) {
  WorldOptions options = Rough();
  options.nodes = 5;
  options.hitless = false;
  options.packet_interval = absl::Milliseconds(200);
  options.node_faults.crypto_failure = 0.03;
  options.node_faults.datapath_failure = 0.03;
  ForSeeds(20, options, [](World& world) {
    world.StartAll(absl::Seconds(3));
    world.RunFor(absl::Seconds(10));
    for (int i = 0; i < 60; ++i) {
      world.Sometime(absl::Minutes(2), [&world] {
        const int a = static_cast<int>(world.chance().Between(0, 4));
        const int b =
            static_cast<int>((a + world.chance().Between(1, 4)) % world.size());
        switch (world.chance().Between(0, 5)) {
          case 0:
            world.node(a).RekeyChildSa(b);
            break;
          case 1:
            world.node(a).RekeyIkeSa(b);
            break;
          case 2:
            world.node(a).Delete(b);
            break;
          case 3:
            if (world.node(a).running()) {
              world.node(a).Crash();
            } else {
              world.node(a).Start();
            }
            break;
          default:
            world.network().Cut(world.AddressOf(a), world.AddressOf(b),
                                world.chance().Happens(0.5));
        }
      });
    }
    world.RunFor(absl::Minutes(2));
    world.Settle(absl::Minutes(3));
  });
}

TEST(SimTest, MeshOfFiftyStartsAtOnce) {
  WorldOptions options = Quiet();
  options.nodes = 50;
  options.packet_interval = absl::Seconds(1);
  options.network_faults = {.loss = 0.02};
  ForSeeds(1, options, [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(5));
    world.Settle();
    EXPECT_EQ(world.Agreed(), 50 * 49 / 2);
  });
}

// A valid IKE_SA_INIT of somebody who will never say more.
base::Bytes ForgedInit(Chance& chance) {
  using wire::Payload;
  base::Bytes nonce(32), public_value(32);
  for (uint8_t& octet : nonce) octet = static_cast<uint8_t>(chance.U64());
  for (uint8_t& octet : public_value) {
    octet = static_cast<uint8_t>(chance.U64());
  }
  wire::SaPayload sa;
  sa.proposals.push_back(
      {.number = 1,
       .protocol = wire::ProtocolId::kIke,
       .transforms = {{wire::TransformType::kEncryption, 20, 256},
                      {wire::TransformType::kPrf, 6},
                      {wire::TransformType::kKeyExchange, 31}}});
  return wire::EncodeMessage({.initiator_spi = chance.U64() | 1,
                              .exchange = wire::ExchangeType::kIkeSaInit,
                              .from_initiator = true},
                             {Payload::Of(std::move(sa)),
                              Payload::Of(wire::KePayload{31, public_value}),
                              Payload::Of(wire::NoncePayload{nonce})});
}

base::Endpoint Somewhere(Chance& chance) {
  const uint64_t n = chance.U64();
  return {base::IpAddress::V4(
              {static_cast<uint8_t>(n % 100 + 20), static_cast<uint8_t>(n >> 8),
               static_cast<uint8_t>(n >> 16), static_cast<uint8_t>(n >> 24)}),
          500};
}

// RFC 7296 2.6: forged requests neither fill the memory nor keep a peer out.
TEST(SimTest, FloodOfForgedRequests) {
  WorldOptions options = Quiet();
  options.core.cookie_threshold = 10;
  options.core.max_half_open = 60;
  ForSeeds(10, options, [](World& world) {
    uint64_t cookies = 0;
    for (int i = 0; i < 4000; ++i) {
      world.Sometime(absl::Seconds(20), [&world] {
        world.network().Inject(Somewhere(world.chance()),
                               {world.AddressOf(1), 500},
                               ForgedInit(world.chance()));
      });
    }
    world.scheduler().After(absl::Seconds(5), [&world] { world.StartAll(); });
    world.RunFor(absl::Seconds(19));
    cookies = world.node(1).core()->counters().cookies_sent;
    EXPECT_GT(cookies, 100u);
    EXPECT_EQ(world.Agreed(), 1) << world.Disagreement(0, 1);
    world.Settle();
    EXPECT_EQ(world.node(1).core()->counters().half_open, 0u);
  });
}

// --- negative controls: each check can fail ---

void RekeyTwice(World& world) {
  world.StartAll();
  world.RunFor(absl::Seconds(10));
  world.node(0).RekeyChildSa(1);
  world.RunFor(absl::Seconds(15));
  world.node(1).RekeyChildSa(0);
  world.RunFor(absl::Seconds(15));
  world.Settle();
}

WorldOptions Sabotaged(Sabotage sabotage) {
  WorldOptions options = Quiet();
  options.sabotage = sabotage;
  return options;
}

TEST(SimControlTest, NothingBreaksWithoutSabotage) {
  ForSeeds(3, Quiet(), RekeyTwice);
}

TEST(SimControlTest, SeesAKeyInstalledTwice) {
  ExpectBroken(Invariant::kKeyInstalledOnce, 3,
               Sabotaged(Sabotage::kInstallTwice), RekeyTwice);
}

TEST(SimControlTest, SeesOutboundBeforeInbound) {
  ExpectBroken(Invariant::kInboundBeforeOutbound, 3,
               Sabotaged(Sabotage::kConfirmEarly), RekeyTwice);
}

TEST(SimControlTest, SeesALostPacket) {
  // Slow enough that packets are under way when the SA goes.
  WorldOptions options = Sabotaged(Sabotage::kDropOldInbound);
  options.network_faults.max_delay = absl::Milliseconds(300);
  ExpectBroken(Invariant::kNoPacketLost, 3, options, RekeyTwice);
}

TEST(SimControlTest, SeesAGap) {
  WorldOptions options = Sabotaged(Sabotage::kDropOldOutbound);
  options.node_faults.max_datapath_delay = absl::Milliseconds(300);
  ExpectBroken(Invariant::kNoGap, 3, options, RekeyTwice);
}

TEST(SimControlTest, SeesLeftovers) {
  ExpectBroken(Invariant::kNothingLeft, 3, Sabotaged(Sabotage::kIgnoreRemove),
               RekeyTwice);
}

TEST(SimControlTest, SeesTooManyHalfOpen) {
  // The core is told a higher limit than the one that is checked.
  WorldOptions options = Sabotaged(Sabotage::kTellWrongHalfOpenLimit);
  options.core.cookie_threshold = 1000;
  options.core.max_half_open = 20;
  ExpectBroken(Invariant::kBoundedHalfOpen, 1, options, [](World& world) {
    world.StartAll();
    for (int i = 0; i < 200; ++i) {
      world.Sometime(absl::Seconds(2), [&world] {
        world.network().Inject(Somewhere(world.chance()),
                               {world.AddressOf(1), 500},
                               ForgedInit(world.chance()));
      });
    }
    world.RunFor(absl::Seconds(4));
  });
}

TEST(SimControlTest, SeesAStorm) {
  ExpectBroken(Invariant::kNoStorm, 3, Sabotaged(Sabotage::kRepeatDatagrams),
               RekeyTwice);
}

TEST(SimControlTest, SeesAPairThatNeverAgrees) {
  const auto late_crash = [](World& world) {
    world.StartAll();
    world.RunFor(absl::Seconds(10));
    world.node(0).Crash();
    world.Settle();
  };
  ExpectBroken(Invariant::kOneIkeSa, 3, Sabotaged(Sabotage::kDeafAfterwards),
               late_crash);
}

TEST(SimControlTest, SeesPacketsThatDoNotFlow) {
  const auto never_start = [](World& world) {
    world.StartAll();
    world.network().Cut(world.AddressOf(0), world.AddressOf(1), true);
    world.Settle(absl::Seconds(5));
  };
  ExpectBroken(Invariant::kPacketsFlow, 1, Sabotaged(Sabotage::kDeafAfterwards),
               never_start);
}

}  // namespace
}  // namespace espalier::sim
