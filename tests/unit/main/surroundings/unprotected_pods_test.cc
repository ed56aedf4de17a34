#include "agent/main/surroundings/unprotected_pods.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::IsEmpty;

const base::Instant kStart = absl::FromUnixSeconds(1000);
const base::Instant kLater = kStart + UnprotectedPods::kGrace;

base::IpAddress Address(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

class UnprotectedPodsTest : public ::testing::Test {
 protected:
  kube::Pod* Add(const std::string& name,
                 const std::vector<std::string>& addresses) {
    auto pod = std::make_shared<kube::Pod>();
    pod->meta.name_space = "shop";
    pod->meta.name = name;
    pod->meta.uid = "uid-" + name;
    pod->phase = "Running";
    for (const std::string& text : addresses) {
      pod->addresses.push_back(Address(text));
    }
    pods_[pod->meta.Key()] = pod;
    return pod.get();
  }
  pods::PodInfo* Attach(const std::string& name,
                        const std::vector<std::string>& addresses) {
    pods::PodInfo info;
    info.pod_namespace = "shop";
    info.pod_name = name;
    info.pod_uid = "uid-" + name;
    for (const std::string& text : addresses) {
      info.addresses.push_back(Address(text));
    }
    attached_.push_back(info);
    return &attached_.back();
  }
  std::vector<std::string> Look(base::Instant now) {
    std::vector<std::string> names;
    for (const UnprotectedPod& pod :
         detector_.Look(now, pods_, attached_, [this] { return modes_; })) {
      names.push_back(pod.Name());
    }
    return names;
  }
  // What stays so for the grace.
  std::vector<std::string> Found() {
    EXPECT_THAT(Look(kStart), IsEmpty());
    return Look(kLater);
  }

  UnprotectedPods detector_;
  mesh::Pods pods_;
  std::vector<pods::PodInfo> attached_;
  base::PodModes modes_;
};

TEST_F(UnprotectedPodsTest, APodOfAnotherPluginIsFound) {
  Add("web", {"10.1.1.2", "fd00::2"});
  Attach("web", {"10.1.1.2", "fd00::2"});
  Add("legacy", {"10.1.1.3"});
  EXPECT_THAT(Found(), ElementsAre("shop/legacy"));
}

TEST_F(UnprotectedPodsTest, ItsModeIsWhatWasAskedFor) {
  Add("a", {"10.1.1.3"});
  modes_.namespaces["shop"].encryption = base::Mode::kDisabled;
  const auto look = [&](base::Instant now) {
    return detector_.Look(now, pods_, {}, [this] { return modes_; });
  };
  look(kStart);
  EXPECT_THAT(look(kLater),
              ElementsAre(Field(&UnprotectedPod::mode, base::Mode::kDisabled)));
  modes_.namespaces["shop"].encryption = base::Mode::kRequired;
  EXPECT_THAT(look(kLater),
              ElementsAre(Field(&UnprotectedPod::mode, base::Mode::kRequired)));
}

TEST_F(UnprotectedPodsTest, AnAddressThatBothPluginsGaveProvesNothing) {
  Add("web", {"10.1.1.2"});
  Attach("web", {"10.1.1.2"});
  Add("legacy", {"10.1.1.2"});
  EXPECT_THAT(Found(), ElementsAre("shop/legacy"));
}

TEST_F(UnprotectedPodsTest, ASecondaryInterfaceOfOursProtectsNoOther) {
  Add("web", {"10.9.0.2"});
  Attach("web", {"10.1.1.2"});
  Add("half", {"10.1.1.4", "fd99::4"});
  Attach("half", {"10.1.1.4"});
  EXPECT_THAT(Found(), ElementsAre("shop/half", "shop/web"));
}

TEST_F(UnprotectedPodsTest, AnotherPodOfTheNameIsAnother) {
  Add("web", {"10.1.1.2"});
  Attach("web", {"10.1.1.2"})->pod_uid = "an earlier one";
  EXPECT_THAT(Found(), ElementsAre("shop/web"));
}

TEST_F(UnprotectedPodsTest, WhatIsNotOfThePodNetworkOrDoesNotRunIsNot) {
  Add("host", {"192.0.2.1"})->host_network = true;
  Add("new", {});
  Add("done", {"10.1.1.2"})->phase = "Succeeded";
  Add("failed", {"10.1.1.3"})->phase = "Failed";
  EXPECT_THAT(Found(), IsEmpty());
  // The init containers of a pod speak before it runs.
  Add("init", {"10.1.1.4"})->phase = "Pending";
  Look(kLater);
  EXPECT_THAT(Look(kLater + UnprotectedPods::kGrace), ElementsAre("shop/init"));
}

TEST_F(UnprotectedPodsTest, RuntimesThatTellNoUidAndAttachmentsWithoutAName) {
  Add("web", {"10.1.1.2"});
  Attach("web", {"10.1.1.2"})->pod_uid = "";
  Add("found", {"10.1.1.3"});
  pods::PodInfo* nameless = Attach("", {"10.1.1.3"});
  nameless->pod_namespace = nameless->pod_uid = "";
  EXPECT_THAT(Found(), IsEmpty());
}

TEST_F(UnprotectedPodsTest, AStaticPodGoesByItsOwnUid) {
  Add("static", {"10.1.1.2"})->meta.annotations["kubernetes.io/config.hash"] =
      "hash";
  Attach("static", {"10.1.1.2"})->pod_uid = "hash";
  EXPECT_THAT(Found(), IsEmpty());
}

TEST_F(UnprotectedPodsTest, WhatComesOrGoesHasAMoment) {
  Add("web", {"10.1.1.2"});
  EXPECT_THAT(Look(kStart), IsEmpty());
  Attach("web", {"10.1.1.2"});
  EXPECT_THAT(Look(kStart + absl::Seconds(1)), IsEmpty());
  // Taken down, and the API server does not know yet: the time begins anew.
  attached_.clear();
  EXPECT_THAT(Look(kLater), IsEmpty());
  EXPECT_THAT(Look(kLater + absl::Seconds(9)), IsEmpty());
  EXPECT_THAT(Look(kLater + absl::Seconds(10)), ElementsAre("shop/web"));
  pods_.clear();
  EXPECT_THAT(Look(kLater + absl::Seconds(11)), IsEmpty());
}

}  // namespace
}  // namespace espalier::agent
