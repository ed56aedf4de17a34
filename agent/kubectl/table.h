// Text in columns, for people.
#ifndef ESPALIER_AGENT_KUBECTL_TABLE_H_
#define ESPALIER_AGENT_KUBECTL_TABLE_H_

#include <string>
#include <vector>

namespace espalier::kubectl {

class Table {
 public:
  explicit Table(std::vector<std::string> heads);
  // As many cells as there are heads; an empty one is shown as "-".
  void Add(std::vector<std::string> cells);
  // Columns as wide as their widest cell, two spaces apart, no trailing ones.
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// 1536 -> "1.5KiB".
std::string HumanBytes(uint64_t octets);
// "45s", "3m20s", "5h12m", "3d4h": the two largest units.
std::string HumanSeconds(int64_t seconds);
// A peer's text may hold anything: control characters would move the
// terminal's cursor or set its title.
std::string Printable(const std::string& text);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_TABLE_H_
