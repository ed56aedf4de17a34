#include "agent/pods/names.h"

#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <string>

namespace espalier::pods {
namespace {

TEST(NamesTest, OwnersRoundTrip) {
  const auto parts = ParseOwner(OwnerOf("c1", "eth0"));
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(parts->container_id, "c1");
  EXPECT_EQ(parts->interface_name, "eth0");
  for (const char* bad : {"", "@", "c1@", "@eth0", "c1"}) {
    EXPECT_FALSE(ParseOwner(bad).has_value()) << bad;
  }
}

TEST(NamesTest, InterfaceNamesAreStableAndDistinct) {
  // Pods that were attached by an older agent are found by these names: a
  // change of the hash would orphan them.
  EXPECT_EQ(HostInterfaceName("c1@eth0"), "esp57e45e346d5");
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    for (const char* interface : {"eth0", "net1"}) {
      const std::string name = HostInterfaceName(
          OwnerOf("container" + std::to_string(i), interface));
      EXPECT_TRUE(std::regex_match(name, std::regex("esp[0-9a-f]{11}")));
      EXPECT_TRUE(seen.insert(name).second);
    }
  }
}

TEST(NamesTest, MacsAreUnicastAndLocal) {
  for (int i = 0; i < 1000; ++i) {
    const std::string owner = OwnerOf("c" + std::to_string(i), "eth0");
    for (const netlink::MacAddress& mac : {PodMac(owner), HostMac(owner)}) {
      EXPECT_EQ(mac[0] & 0x03, 0x02);
    }
    EXPECT_NE(PodMac(owner), HostMac(owner));
    EXPECT_EQ(PodMac(owner), PodMac(owner));
  }
}

TEST(NamesTest, AliasesRoundTrip) {
  const auto parsed = ParseAlias(FormatAlias("net", "c1@eth0"));
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->network, "net");
  EXPECT_EQ(parsed->owner, "c1@eth0");
  for (const char* foreign :
       {"", "espalier-pod", "espalier-pod net", "espalier-pod net c1",
        "espalier-pod  c1@eth0", "other net c1@eth0",
        "espalier-pod net c1@eth0 more"}) {
    EXPECT_FALSE(ParseAlias(foreign).has_value()) << foreign;
  }
  // The longest that espalier-cni lets through fits into IFALIASZ.
  EXPECT_LT(FormatAlias(std::string(64, 'n'),
                        OwnerOf(std::string(128, 'c'), "fifteen-letters"))
                .size(),
            256u);
}

}  // namespace
}  // namespace espalier::pods
