#include "agent/kube/list_watch.h"

#include <cstring>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using Kind = ListWatch::RequestKind;

class Lcg : public base::RandomSource {
 public:
  explicit Lcg(uint64_t seed = 1) : state_(seed) {}
  void Fill(base::MutableByteSpan out) override {
    for (uint8_t& octet : out) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      octet = static_cast<uint8_t>(state_ >> 56);
    }
  }

 private:
  uint64_t state_;
};

std::string Item(const std::string& name, int version,
                 const std::string& uid = "") {
  return absl::StrCat(R"({"metadata":{"name":")", name, R"(","uid":")",
                      uid.empty() ? "uid-" + name : uid,
                      R"(","resourceVersion":")", version, R"("}})");
}

std::string ListOf(int version, const std::vector<std::string>& items,
                   const std::string& token = "") {
  return absl::StrCat(R"({"kind":"List","metadata":{"resourceVersion":")",
                      version, R"(","continue":")", token, R"("},"items":[)",
                      absl::StrJoin(items, ","), "]}");
}

std::string Line(const std::string& type, const std::string& object) {
  return absl::StrCat(R"({"type":")", type, R"(","object":)", object, "}\n");
}

std::string Bookmark(int version) {
  return Line("BOOKMARK", absl::StrCat(R"({"metadata":{"resourceVersion":")",
                                       version, R"("}})"));
}

// A list/watch, a virtual clock, and what an owner has been told.
class ListWatchTest : public ::testing::Test {
 protected:
  ListWatchTest() { Anew(); }
  void Anew() {
    owned_ = std::make_unique<ListWatch>(
        TypeOf<EspalierNode>(), Resource{kEspalierNodes, {.labels = "x=y"}},
        options_, &random_);
    told_.clear();
  }
  // The next request; time passes as far as it has to.
  ListWatch::Request Ask() {
    for (int i = 0; i < 10; ++i) {
      auto next = owned_->Next(now_);
      if (auto* request = std::get_if<ListWatch::Request>(&next)) {
        return *request;
      }
      const base::Instant until = std::get<ListWatch::Wait>(next).until;
      EXPECT_GT(until, now_) << "a wait that does not wait";
      waited_ += until - now_;
      now_ = until;
    }
    ADD_FAILURE() << "it only waits";
    return {};
  }
  void Answer(int status, const std::string& body,
              absl::Duration retry_after = absl::ZeroDuration()) {
    owned_->OnAnswer(
        now_, HttpResponse{
                  .status = status, .retry_after = retry_after, .body = body});
    Take();
  }
  void Break(absl::Status status = absl::UnavailableError("reset")) {
    owned_->OnAnswer(now_, status);
    Take();
  }
  bool Feed(const std::string& octets) {
    const bool more = owned_->OnWatchOctets(now_, octets);
    Take();
    return more;
  }
  void Take() {
    for (RawUpdate& update : owned_->TakeUpdates()) {
      if (auto* put = std::get_if<RawPut>(&update)) {
        Tell("+", put->object);
      } else if (auto* deleted = std::get_if<RawDeleted>(&update)) {
        Tell("-", deleted->object);
      } else {
        relists_.push_back(std::get<RawRelist>(update));
      }
    }
  }
  void Tell(const char* sign, const ObjectPointer& object) {
    const auto& meta = static_cast<const EspalierNode*>(object.get())->meta;
    told_.push_back(absl::StrCat(sign, meta.name, "@", meta.resource_version));
  }
  // In sync with a, b at version 10, a watch is running.
  void Sync() {
    EXPECT_EQ(Ask().kind, Kind::kList);
    Answer(200, ListOf(10, {Item("a", 5), Item("b", 6)}));
    EXPECT_EQ(Ask().kind, Kind::kWatch);
  }
  static std::vector<std::string> Names(
      const std::vector<ObjectPointer>& objects) {
    std::vector<std::string> names;
    for (const ObjectPointer& object : objects) {
      names.push_back(
          static_cast<const EspalierNode*>(object.get())->meta.name);
    }
    return names;
  }

  ListWatchOptions options_;
  Lcg random_;
  base::Instant now_ = absl::FromUnixSeconds(1000);
  absl::Duration waited_ = absl::ZeroDuration();
  std::unique_ptr<ListWatch> owned_;
  std::vector<std::string> told_;
  std::vector<RawRelist> relists_;
};

TEST_F(ListWatchTest, ListsThenWatchesFromThere) {
  ListWatch::Request list = Ask();
  EXPECT_EQ(list.kind, Kind::kList);
  EXPECT_EQ(list.http.target,
            absl::StrCat(kEspalierNodes, "?labelSelector=x%3dy&limit=500"));
  EXPECT_FALSE(owned_->stats().in_sync);
  Answer(200, ListOf(10, {Item("a", 5), Item("b", 6)}));
  EXPECT_TRUE(owned_->stats().in_sync);
  ASSERT_THAT(relists_, SizeIs(1));
  EXPECT_TRUE(relists_[0].first);
  EXPECT_FALSE(relists_[0].older_than_seen);
  EXPECT_FALSE(relists_[0].lost_more_than_quarter);
  EXPECT_THAT(Names(relists_[0].objects), ElementsAre("a", "b"));
  const ListWatch::Request watch = Ask();
  EXPECT_EQ(watch.kind, Kind::kWatch);
  EXPECT_THAT(watch.http.target, HasSubstr("watch=true"));
  EXPECT_THAT(watch.http.target, HasSubstr("allowWatchBookmarks=true"));
  EXPECT_THAT(watch.http.target, HasSubstr("resourceVersion=10&"));
  EXPECT_THAT(watch.http.target, HasSubstr("timeoutSeconds="));
  EXPECT_LT(watch.http.idle_timeout, absl::Minutes(5));
  EXPECT_LT(watch.http.timeout, absl::Minutes(11));
}

TEST_F(ListWatchTest, PagesAreOneList) {
  Ask();
  Answer(200, ListOf(10, {Item("a", 5)}, "t1"));
  EXPECT_FALSE(owned_->stats().in_sync);
  EXPECT_THAT(Ask().http.target, HasSubstr("&continue=t1"));
  Answer(200, ListOf(10, {Item("b", 6)}, "t2"));
  EXPECT_THAT(Ask().http.target, HasSubstr("&continue=t2"));
  EXPECT_THAT(relists_, IsEmpty());
  Answer(200, ListOf(10, {Item("c", 7)}));
  ASSERT_THAT(relists_, SizeIs(1));
  EXPECT_THAT(Names(relists_[0].objects), ElementsAre("a", "b", "c"));
}

TEST_F(ListWatchTest, AnExpiredPageBeginsTheListAnew) {
  Ask();
  Answer(200, ListOf(10, {Item("gone", 5)}, "t1"));
  Ask();
  Answer(410, "{}");
  EXPECT_THAT(Ask().http.target, Not(HasSubstr("continue")));
  Answer(200, ListOf(12, {Item("a", 11)}));
  ASSERT_THAT(relists_, SizeIs(1));
  EXPECT_THAT(Names(relists_[0].objects), ElementsAre("a"));
}

TEST_F(ListWatchTest, APageThatFailsIsAskedForAgain) {
  Ask();
  Answer(200, ListOf(10, {Item("a", 5)}, "t1"));
  Ask();
  Break();
  EXPECT_THAT(Ask().http.target, HasSubstr("continue=t1"));
  Answer(200, ListOf(10, {Item("b", 6)}));
  EXPECT_THAT(Names(relists_[0].objects), ElementsAre("a", "b"));
}

// Pages of different moments leave a gap that no watch would fill; a token
// that leads nowhere would be followed forever.
TEST_F(ListWatchTest, PagesThatDoNotFitAreNoList) {
  Ask();
  Answer(200, ListOf(10, {Item("a", 5)}, "t1"));
  Ask();
  Answer(200, ListOf(11, {Item("b", 6)}));
  EXPECT_THAT(relists_, IsEmpty());
  EXPECT_THAT(Ask().http.target, Not(HasSubstr("continue")));
  Answer(200, ListOf(10, {Item("a", 5)}, "t1"));
  Ask();
  Answer(200, ListOf(10, {Item("b", 6)}, "t1"));
  EXPECT_THAT(relists_, IsEmpty());
  EXPECT_EQ(owned_->stats().failures, 2);
}

TEST_F(ListWatchTest, APageTooLongIsAskedForInHalves) {
  EXPECT_THAT(Ask().http.target, HasSubstr("limit=500"));
  Break(absl::ResourceExhaustedError("too long"));
  EXPECT_THAT(Ask().http.target, HasSubstr("limit=250"));
  EXPECT_EQ(waited_, absl::ZeroDuration());
  for (int i = 0; i < 7; ++i) {
    Break(absl::ResourceExhaustedError("too long"));
    Ask();
  }
  EXPECT_THAT(Ask().http.target, ::testing::EndsWith("limit=1"));
  Break(absl::ResourceExhaustedError("too long"));
  Ask();
  EXPECT_GT(waited_, absl::ZeroDuration());
}

TEST_F(ListWatchTest, GarbageInPlaceOfAListChangesNothing) {
  Sync();
  Feed(Line("ERROR", R"({"code":410})"));
  Answer(200, "");
  for (const char* body :
       {"", "[]", "{}", "null", R"({"metadata":{}})",
        R"({"metadata":{"resourceVersion":"9"},"items":7})",
        R"({"metadata":{"resourceVersion":7},"items":[]})"}) {
    EXPECT_EQ(Ask().kind, Kind::kList);
    Answer(200, body);
  }
  EXPECT_THAT(relists_, SizeIs(1));
  EXPECT_EQ(owned_->stats().objects, 2u);
  EXPECT_GT(owned_->stats().failures, 5);
}

TEST_F(ListWatchTest, EventsInOrder) {
  Sync();
  EXPECT_TRUE(Feed(Line("ADDED", Item("c", 11)) +
                   Line("MODIFIED", Item("a", 12)) +
                   Line("DELETED", Item("b", 13))));
  EXPECT_THAT(told_, ElementsAre("+c@11", "+a@12", "-b@13"));
  EXPECT_EQ(owned_->stats().objects, 2u);
  now_ += absl::Minutes(5);
  Answer(200, "");
  EXPECT_THAT(Ask().http.target, HasSubstr("resourceVersion=13&"));
  EXPECT_EQ(waited_, absl::ZeroDuration());
}

TEST_F(ListWatchTest, DuplicateAndLateEventsAreIgnored) {
  Sync();
  Feed(Line("MODIFIED", Item("a", 12)));
  Feed(Line("MODIFIED", Item("a", 12)));  // again
  Feed(Line("MODIFIED", Item("a", 11)));  // late
  Feed(Line("DELETED", Item("b", 10)));   // from before the list
  Feed(Line("ADDED", Item("c", 9)));
  EXPECT_THAT(told_, ElementsAre("+a@12"));
  EXPECT_EQ(owned_->stats().ignored, 4u);
  // 9 is less than 10, whatever the digits say first.
  Feed(Line("MODIFIED", Item("a", 100)));
  Feed(Line("MODIFIED", Item("a", 99)));
  EXPECT_THAT(told_, ElementsAre("+a@12", "+a@100"));
}

TEST_F(ListWatchTest, TheEndOfAnEarlierIncarnationIsNotThatOfTheNext) {
  Sync();
  Feed(Line("ADDED", Item("a", 12, "second")));
  Feed(Line("DELETED", Item("a", 13, "uid-a")));
  EXPECT_THAT(told_, ElementsAre("+a@12"));
  Feed(Line("DELETED", Item("a", 14, "second")));
  EXPECT_THAT(told_, ElementsAre("+a@12", "-a@14"));
}

TEST_F(ListWatchTest, ABookmarkMovesThePositionOnly) {
  Sync();
  Feed(Bookmark(50));
  EXPECT_THAT(told_, IsEmpty());
  now_ += absl::Minutes(5);
  Answer(200, "");
  EXPECT_THAT(Ask().http.target, HasSubstr("resourceVersion=50&"));
  // One from the past does not move it back.
  Feed(Bookmark(40));
  Feed(Line("MODIFIED", Item("a", 45)));
  EXPECT_THAT(told_, IsEmpty());
}

TEST_F(ListWatchTest, GoneInTheStreamOrAsAnAnswerMeansANewList) {
  Sync();
  EXPECT_FALSE(Feed(
      Line("ERROR", R"({"kind":"Status","code":410,"reason":"Expired"})")));
  Answer(200, "");
  EXPECT_EQ(Ask().kind, Kind::kList);
  EXPECT_EQ(waited_, absl::ZeroDuration());
  Answer(200, ListOf(20, {Item("a", 5), Item("b", 19)}));
  EXPECT_EQ(Ask().kind, Kind::kWatch);
  Answer(410, "{}");
  EXPECT_EQ(Ask().kind, Kind::kList);
  EXPECT_EQ(waited_, absl::ZeroDuration());
  ASSERT_THAT(relists_, SizeIs(2));
  EXPECT_FALSE(relists_[1].first);
  EXPECT_THAT(relists_[1].missing, IsEmpty());
}

TEST_F(ListWatchTest, GoneForeverIsNotAskedForInATightLoop) {
  Sync();
  for (int i = 0; i < 20; ++i) {
    Answer(410, "{}");
    EXPECT_EQ(Ask().kind, Kind::kList);
    Answer(410, "{}");
    Ask();
  }
  EXPECT_GT(waited_, absl::Minutes(3));
}

// What has not changed is the same value in memory.
TEST_F(ListWatchTest, ARelistKeepsWhatHasNotChanged) {
  Sync();
  Feed(Line("ERROR", R"({"code":410})"));
  Answer(200, "");
  Ask();
  Answer(200, ListOf(20, {Item("a", 5), Item("b", 19)}));
  EXPECT_EQ(relists_[0].objects[0], relists_[1].objects[0]);
  EXPECT_NE(relists_[0].objects[1], relists_[1].objects[1]);
}

TEST_F(ListWatchTest, ARelistThatIsOlderIsToldAsSuch) {
  Sync();
  Feed(Line("MODIFIED", Item("a", 30)));
  Feed(Line("ERROR", R"({"code":410})"));
  Answer(200, "");
  Ask();
  Answer(200, ListOf(20, {Item("a", 5), Item("b", 6)}));
  ASSERT_THAT(relists_, SizeIs(2));
  EXPECT_TRUE(relists_[1].older_than_seen);
  EXPECT_FALSE(relists_[1].lost_more_than_quarter);
  // It goes on from there, and stays suspicious until it has caught up.
  EXPECT_THAT(Ask().http.target, HasSubstr("resourceVersion=20&"));
  Feed(Line("MODIFIED", Item("a", 25)));
  EXPECT_THAT(told_, ElementsAre("+a@30", "+a@25"));
  Answer(410, "");
  Ask();
  Answer(200, ListOf(26, {Item("a", 25), Item("b", 6)}));
  EXPECT_TRUE(relists_[2].older_than_seen);
  Ask();
  Answer(410, "");
  Ask();
  Answer(200, ListOf(31, {Item("a", 25), Item("b", 6)}));
  EXPECT_FALSE(relists_[3].older_than_seen);
}

TEST_F(ListWatchTest, ARelistThatLosesMoreThanAQuarterIsToldAsSuch) {
  const auto relist_of = [this](int version, int count) {
    std::vector<std::string> items;
    for (int i = 0; i < count; ++i) {
      items.push_back(Item(absl::StrCat("n", i), 5));
    }
    EXPECT_EQ(Ask().kind, Kind::kList);
    Answer(200, ListOf(version, items));
    Ask();
    Answer(410, "");
    return relists_.back();
  };
  relist_of(10, 8);
  const RawRelist quarter = relist_of(11, 6);
  EXPECT_FALSE(quarter.lost_more_than_quarter);
  EXPECT_THAT(Names(quarter.missing), ElementsAre("n6", "n7"));
  EXPECT_TRUE(relist_of(12, 4).lost_more_than_quarter);
  EXPECT_FALSE(relist_of(13, 8).lost_more_than_quarter);
  EXPECT_TRUE(relist_of(14, 0).lost_more_than_quarter);
  EXPECT_FALSE(relist_of(15, 0).lost_more_than_quarter);
}

// A server that was set back to an older state takes a watch from a position
// it has not reached, and is silent: so it is asked for its own first.
TEST_F(ListWatchTest, AfterABreakTheServersPositionIsLookedAt) {
  Sync();
  Break();
  ListWatch::Request check = Ask();
  EXPECT_EQ(check.kind, Kind::kCheck);
  EXPECT_THAT(check.http.target, HasSubstr("limit=1"));
  EXPECT_GT(waited_, absl::ZeroDuration());
  Answer(200, ListOf(11, {Item("a", 5)}, "more"));
  EXPECT_THAT(Ask().http.target, HasSubstr("resourceVersion=10&"));
  EXPECT_THAT(relists_, SizeIs(1));

  Break();
  EXPECT_EQ(Ask().kind, Kind::kCheck);
  Answer(200, ListOf(9, {}));
  EXPECT_EQ(Ask().kind, Kind::kList);
  Answer(200, ListOf(9, {Item("a", 5)}));
  EXPECT_TRUE(relists_[1].older_than_seen);
  EXPECT_TRUE(relists_[1].lost_more_than_quarter);
}

TEST_F(ListWatchTest, AHalfDeadWatchIsReplaced) {
  Sync();
  now_ += options_.watch_idle;
  Break(absl::DeadlineExceededError("not an octet"));
  EXPECT_EQ(Ask().kind, Kind::kCheck);
  Answer(200, ListOf(10, {}));
  EXPECT_EQ(Ask().kind, Kind::kWatch);
}

TEST_F(ListWatchTest, TheServersOwnEndOfAWatchIsNoFailure) {
  Sync();
  now_ += absl::Minutes(7);
  Answer(200, "");
  EXPECT_EQ(owned_->stats().failures, 0);
  EXPECT_EQ(Ask().kind, Kind::kWatch);
  EXPECT_EQ(waited_, absl::ZeroDuration());
}

TEST_F(ListWatchTest, AWatchThatEndsAtOnceIsAFailure) {
  Sync();
  for (int i = 0; i < 10; ++i) {
    Answer(200, "");
    if (Ask().kind == Kind::kCheck) {
      Answer(200, ListOf(10, {}));
      Ask();
    }
  }
  EXPECT_GT(waited_, absl::Minutes(1));
}

TEST_F(ListWatchTest, TooManyRequestsWaitsAsAskedAndSpreadsOut) {
  std::set<absl::Duration> waits;
  for (int i = 0; i < 10; ++i) {
    Ask();
    Answer(429, "{}", absl::Seconds(20));
    waited_ = absl::ZeroDuration();
    Ask();
    EXPECT_GE(waited_, absl::Seconds(20));
    EXPECT_LE(waited_, absl::Seconds(20) + options_.backoff_most);
    waits.insert(waited_);
  }
  EXPECT_GT(waits.size(), 8u);
  Answer(503, "{}", absl::Hours(24));
  waited_ = absl::ZeroDuration();
  Ask();
  EXPECT_LE(waited_, options_.retry_after_most + options_.backoff_most);
}

TEST_F(ListWatchTest, TooManyRequestsInTheStream) {
  Sync();
  Feed(Line("ERROR", R"({"code":429,"details":{"retryAfterSeconds":9}})"));
  Answer(200, "");
  EXPECT_EQ(Ask().kind, Kind::kWatch);
  EXPECT_GE(waited_, absl::Seconds(9));
}

TEST_F(ListWatchTest, BackoffGrowsToItsMostAndEndsWithSuccess) {
  std::vector<absl::Duration> waits;
  for (int i = 0; i < 12; ++i) {
    Ask();
    Break();
    waited_ = absl::ZeroDuration();
    Ask();
    waits.push_back(waited_);
  }
  EXPECT_LE(waits[0], options_.backoff_first);
  EXPECT_GE(waits[0], options_.backoff_first / 2);
  EXPECT_GE(waits.back(), options_.backoff_most / 2);
  for (const absl::Duration wait : waits)
    EXPECT_LE(wait, options_.backoff_most);
  EXPECT_EQ(owned_->stats().failures, 12);
  Answer(200, ListOf(10, {}));
  EXPECT_EQ(owned_->stats().failures, 0);
  Ask();
  Break();
  waited_ = absl::ZeroDuration();
  Ask();
  EXPECT_LE(waited_, options_.backoff_first);
}

// Rights that are missing, or credentials that have expired, tear nothing
// down and are asked for again.
TEST_F(ListWatchTest, RefusalsKeepWhatIsKnown) {
  Sync();
  for (const int status : {401, 403, 404, 500, 302}) {
    Answer(status, "{}");
    Ask();
    EXPECT_EQ(owned_->stats().objects, 2u);
    EXPECT_TRUE(owned_->stats().in_sync);
    EXPECT_FALSE(owned_->stats().last_failure.ok());
  }
  EXPECT_THAT(relists_, SizeIs(1));
  EXPECT_THAT(told_, IsEmpty());
}

TEST_F(ListWatchTest, GarbageInTheStreamEndsItAndNothingIsMissed) {
  for (const char* garbage :
       {"not json\n", "{}\n", "[1]\n", "{\"type\":\"ADDED\"}\n",
        "{\"type\":7,\"object\":{}}\n", "{\"type\":\"ADDED\",\"object\":7}\n",
        "\xff\xfe\n"}) {
    SCOPED_TRACE(garbage);
    Anew();
    Sync();
    EXPECT_TRUE(Feed(Line("MODIFIED", Item("a", 12))));
    EXPECT_FALSE(Feed(garbage));
    Answer(200, "");
    waited_ = absl::ZeroDuration();
    EXPECT_THAT(Ask().http.target, HasSubstr("resourceVersion=12&"));
    EXPECT_GT(waited_, absl::ZeroDuration());
    EXPECT_THAT(told_, ElementsAre("+a@12"));
  }
}

TEST_F(ListWatchTest, AnUnknownEventOrNamelessObjectIsPassedOver) {
  Sync();
  EXPECT_TRUE(Feed(Line("FUTURE", Item("a", 12))));
  EXPECT_TRUE(Feed(Line("ADDED", R"({"metadata":{}})")));
  EXPECT_TRUE(Feed(Line("ADDED", Item("c", 13))));
  EXPECT_THAT(told_, ElementsAre("+c@13"));
}

TEST_F(ListWatchTest, AnEventTooLongComesByAList) {
  Sync();
  EXPECT_FALSE(Feed(std::string(options_.max_line_octets + 1, 'x')));
  Break(absl::CancelledError("sink"));
  EXPECT_EQ(Ask().kind, Kind::kList);
}

TEST_F(ListWatchTest, TooManyObjectsAreRefusedAndWhatWasKnownStays) {
  options_.max_objects = 3;
  ListWatch small(TypeOf<EspalierNode>(), {kEspalierNodes, {}}, options_,
                  &random_);
  small.Next(now_);
  small.OnAnswer(
      now_, HttpResponse{.status = 200, .body = ListOf(10, {Item("a", 1)})});
  small.Next(now_);
  for (int i = 0; i < 10; ++i) {
    small.OnWatchOctets(now_,
                        Line("ADDED", Item(absl::StrCat("n", i), 20 + i)));
  }
  EXPECT_EQ(small.stats().objects, 3u);
  small.OnAnswer(now_, HttpResponse{.status = 410});
  small.Next(now_);
  small.OnAnswer(
      now_, HttpResponse{.status = 200,
                         .body = ListOf(40, {Item("a", 1), Item("b", 1),
                                             Item("c", 1), Item("d", 1)})});
  EXPECT_EQ(small.stats().objects, 3u);
  EXPECT_EQ(small.stats().lists, 1u);
  EXPECT_THAT(small.stats().last_failure.message(), HasSubstr("more than 3"));
}

// The server's side of a stream that is cut anywhere: what the owner has been
// told in the end is what is there, whatever was lost on the way.
TEST_F(ListWatchTest, AStreamCutAtEachOctetLosesAndRepeatsNothing) {
  const std::vector<std::pair<int, std::string>> events = {
      {11, Line("ADDED", Item("c", 11))},
      {12, Line("MODIFIED", Item("a", 12))},
      {13, Line("DELETED", Item("b", 13))},
      {14, Bookmark(14)},
      {15, Line("ADDED", Item("b", 15, "second"))},
      {16, Line("DELETED", Item("c", 16))}};
  const std::vector<std::string> whole = {"+c@11", "+a@12", "-b@13", "+b@15",
                                          "-c@16"};
  std::string stream;
  for (const auto& [version, line] : events) stream += line;
  for (size_t cut = 0; cut <= stream.size(); ++cut) {
    for (const bool clean : {true, false}) {
      ListWatch core(TypeOf<EspalierNode>(), {kEspalierNodes, {}}, options_,
                     &random_);
      std::vector<std::string> told;
      base::Instant now = now_;
      const auto take = [&] {
        told_.clear();
        for (RawUpdate& update : core.TakeUpdates()) {
          if (auto* put = std::get_if<RawPut>(&update)) Tell("+", put->object);
          if (auto* gone = std::get_if<RawDeleted>(&update)) {
            Tell("-", gone->object);
          }
        }
        told.insert(told.end(), told_.begin(), told_.end());
      };
      core.Next(now);
      core.OnAnswer(
          now, HttpResponse{.status = 200,
                            .body = ListOf(10, {Item("a", 5), Item("b", 6)})});
      take();
      core.Next(now);
      core.OnWatchOctets(now, stream.substr(0, cut));
      if (clean) {
        core.OnAnswer(now, HttpResponse{.status = 200});
      } else {
        core.OnAnswer(now, absl::UnavailableError("reset"));
      }
      take();
      // The next watch, from wherever it wants to begin.
      for (bool watched = false; !watched;) {
        auto next = core.Next(now);
        if (const auto* wait = std::get_if<ListWatch::Wait>(&next)) {
          now = wait->until;
          continue;
        }
        const auto& request = std::get<ListWatch::Request>(next);
        if (request.kind == Kind::kCheck) {
          core.OnAnswer(now,
                        HttpResponse{.status = 200, .body = ListOf(16, {})});
          continue;
        }
        ASSERT_EQ(request.kind, Kind::kWatch) << cut;
        const size_t at = request.http.target.find("resourceVersion=");
        const int from = std::atoi(request.http.target.c_str() + at + 16);
        for (const auto& [version, line] : events) {
          if (version > from) core.OnWatchOctets(now, line);
        }
        watched = true;
      }
      take();
      ASSERT_EQ(told, whole) << "cut at " << cut;
      ASSERT_EQ(core.stats().objects, 2u);
    }
  }
}

TEST(CompareVersions, AsNumbersOfAnyLength) {
  EXPECT_EQ(CompareVersions("9", "10"), -1);
  EXPECT_EQ(CompareVersions("10", "10"), 0);
  EXPECT_EQ(CompareVersions("0010", "9"), 1);
  EXPECT_EQ(CompareVersions("18446744073709551616", "18446744073709551615"), 1);
  EXPECT_EQ(CompareVersions("", "1"), std::nullopt);
  EXPECT_EQ(CompareVersions("a", "1"), std::nullopt);
}

TEST(ListWatchLifetime, WatchesOfManyAgentsEndAtDifferentTimes) {
  std::set<std::string> targets;
  for (int seed = 0; seed < 20; ++seed) {
    Lcg random(seed);
    ListWatch core(TypeOf<EspalierNode>(), {kEspalierNodes, {}}, {}, &random);
    const base::Instant now = absl::FromUnixSeconds(1);
    core.Next(now);
    core.OnAnswer(now, HttpResponse{.status = 200, .body = ListOf(10, {})});
    auto next = core.Next(now);
    targets.insert(std::get<ListWatch::Request>(next).http.target);
  }
  EXPECT_GT(targets.size(), 10u);
}

}  // namespace
}  // namespace espalier::kube
