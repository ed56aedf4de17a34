// Message ids and addresses of the requests of an IKE_SA that is up (RFC 7296
// 2.2, 2.3, 2.11).
#include "gtest/gtest.h"
#include "tests/unit/ike/insider.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

class Window : public ::testing::Test {
 protected:
  void SetUp() override {
    lab_.Introduce(a_, b_);
    lab_.filter = [this](Node& from, Node&, Path& path, base::Bytes& bytes) {
      if (&from == &a_ && !IsResponse(bytes)) {
        requests_.emplace_back(path, bytes);
      }
      return true;
    };
    a_.core.Establish(lab_.now(), PeerId(2));
    lab_.Drain();
    a_.core.RekeyChildSa(lab_.now(), PeerId(2));
    lab_.Drain();
    ASSERT_GE(requests_.size(), 3u);
  }
  uint32_t NextId() {
    return wire::DecodeHeader(requests_.back().second)->header.message_id + 1;
  }
  // An empty request of a's, which b can not tell from one of a's own making.
  base::Bytes RequestOf(uint32_t message_id) {
    base::Bytes bytes = requests_.back().second;
    Insider(a_).Rewrite({}, &bytes, wire::ExchangeType::kInformational,
                        message_id);
    return bytes;
  }
  // Where b's answer to `bytes` that come from `from` goes.
  std::optional<Path> AnswerTo(const base::Endpoint& from,
                               const base::Bytes& bytes) {
    lab_.hold_wire = true;
    lab_.wire.clear();
    lab_.Inject(b_, {.local = {b_.address, 500}, .remote = from}, bytes);
    if (lab_.wire.size() != 1) return std::nullopt;
    return lab_.wire.front().path;
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1, WithKeyLog());
  Node& b_ = lab_.Add("b", 2);
  std::vector<std::pair<Path, base::Bytes>> requests_;
};

TEST_F(Window, IdsOutsideItAreDropped) {
  const Path path = requests_.back().first;
  const size_t sent = b_.sent.size();
  // IKE_AUTH's id lies behind by now.
  lab_.Inject(b_, requests_[1].first, requests_[1].second);
  EXPECT_EQ(b_.sent.size(), sent);
  // Authentic, and too early.
  const uint32_t next = NextId();
  for (uint32_t ahead : {next + 1, next + 2, 0x7f000000u, UINT32_MAX}) {
    lab_.Inject(b_, path, RequestOf(ahead));
    EXPECT_EQ(b_.sent.size(), sent) << ahead;
  }
  // The negative control: the id whose turn it is.
  lab_.Inject(b_, path, RequestOf(next));
  EXPECT_EQ(b_.sent.size(), sent + 1);
  EXPECT_EQ(b_.core.counters().bad_integrity, 0u);
}

TEST_F(Window, AnswersGoWhereTheRequestCameFrom) {
  const base::Endpoint elsewhere = {base::IpAddress::V4({198, 51, 100, 7}),
                                    40000};
  const base::Bytes request = RequestOf(NextId());
  for (const base::Endpoint& from :
       {elsewhere, base::Endpoint{a_.address, 500}, elsewhere}) {
    // Once worked on, then out of the response cache.
    const std::optional<Path> answer = AnswerTo(from, request);
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->remote, from);
    EXPECT_EQ(answer->local, (base::Endpoint{b_.address, 500}));
  }
  // An IKE_SA_INIT as well: its SPI is b's only once it is answered.
  base::Bytes init = requests_.front().second;
  init[0] ^= 1;
  const std::optional<Path> answer = AnswerTo(elsewhere, init);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->remote, elsewhere);
}

TEST(WindowEnd, AnIkeSaWithoutIdsIsClosedAndAnotherTakesItsPlace) {
  CoreConfig config;
  config.last_message_id = 4;
  Lab lab;
  Node& a = lab.Add("a", 1, config);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  uint32_t highest = 0;
  lab.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from == &a && !IsResponse(bytes)) {
      highest = std::max(highest, wire::DecodeHeader(bytes)->header.message_id);
    }
    return true;
  };
  const auto closed = [&] { return a.Count(Event::Kind::kIkeSaDown); };
  for (int i = 0; i < 3 && closed() == 0; ++i) {
    EXPECT_TRUE(lab.PassBoth(a, b));
    // The request, and the Delete of what it replaced.
    a.core.RekeyChildSa(lab.now(), PeerId(2));
    lab.Run(absl::Milliseconds(100));
  }
  EXPECT_EQ(highest, 4u);
  EXPECT_EQ(closed(), 1);
  lab.Run(absl::Seconds(30));
  EXPECT_TRUE(lab.PassBoth(a, b));
  EXPECT_EQ(a.core.counters().ike_sas_established, 2u);
}

}  // namespace
}  // namespace espalier::ike::testing
