#include "agent/mesh/config/proposals.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "agent/base/status_macros.h"
#include "agent/mesh/config/reader.h"

namespace espalier::mesh {
namespace {

using crypto::Cipher;
using crypto::Group;
using crypto::Integrity;
using crypto::Prf;

struct CipherWord {
  const char* word;
  Cipher cipher;
  uint16_t key_bits;
};
constexpr CipherWord kCiphers[] = {
    {"aes256gcm16", Cipher::kAesGcm16, 256},
    {"aes128gcm16", Cipher::kAesGcm16, 128},
    {"chacha20poly1305", Cipher::kChaCha20Poly1305, 256},
    {"aes256", Cipher::kAesCbc, 256},
    {"aes128", Cipher::kAesCbc, 128},
};

template <typename T>
struct Word {
  const char* word;
  T value;
};
constexpr Word<Integrity> kIntegrities[] = {
    {"sha256", Integrity::kHmacSha2_256_128},
    {"sha384", Integrity::kHmacSha2_384_192},
    {"sha512", Integrity::kHmacSha2_512_256},
};
constexpr Word<Prf> kPrfs[] = {
    {"prfsha256", Prf::kHmacSha2_256},
    {"prfsha384", Prf::kHmacSha2_384},
    {"prfsha512", Prf::kHmacSha2_512},
};
constexpr Word<Group> kGroups[] = {
    {"x25519", Group::kX25519},     {"ecp256", Group::kEcp256},
    {"ecp384", Group::kEcp384},     {"modp2048", Group::kModp2048},
    {"modp3072", Group::kModp3072}, {"modp4096", Group::kModp4096},
};

template <typename Table>
auto Find(const Table& table, const std::string& word) {
  return std::find_if(std::begin(table), std::end(table),
                      [&](const auto& entry) { return word == entry.word; });
}

template <typename Table>
void AppendWords(const Table& table, std::vector<std::string>* words) {
  for (const auto& entry : table) words->push_back(entry.word);
}

// In the place of a cipher: RFC 4302, for CHILD_SAs.
constexpr char kAhWord[] = "ah";

// What both kinds of proposal have, before they part.
struct Parts {
  bool ah = false;
  CipherWord cipher{};
  Integrity integrity = Integrity::kNone;
  std::vector<Prf> prfs;
  std::vector<Group> groups;
  std::optional<bool> esn;
};

absl::Status WrongWord(const std::string& text, const std::string& word,
                       const std::vector<std::string>& words) {
  constexpr const char* kWeak[] = {"des",  "3des",    "null",     "md5",
                                   "sha1", "modp768", "modp1024", "modp1536"};
  if (std::any_of(std::begin(kWeak), std::end(kWeak),
                  [&](const char* weak) { return word == weak; })) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", word, "' in the proposal '", text.substr(0, 80),
                     "' is too weak and never offered; expected one of ",
                     absl::StrJoin(words, ", ")));
  }
  const std::string nearest = NearestWord(word, words);
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown word '", word.substr(0, 40), "' in the proposal '",
      text.substr(0, 80), "': ",
      nearest.empty()
          ? absl::StrCat("expected one of ", absl::StrJoin(words, ", "))
          : absl::StrCat("did you mean '", nearest, "'?")));
}

template <typename T>
absl::Status AppendOnce(const std::string& word, T value,
                        std::vector<T>* values) {
  if (std::find(values->begin(), values->end(), value) != values->end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", word, "' comes twice in the proposal"));
  }
  values->push_back(value);
  return absl::OkStatus();
}

absl::StatusOr<Parts> Parse(const std::string& text, bool ike) {
  const std::vector<std::string> words =
      absl::StrSplit(text.substr(0, 256), '-');
  Parts parts;
  parts.ah = !ike && words[0] == kAhWord;
  const auto* cipher = Find(kCiphers, words[0]);
  if (cipher == std::end(kCiphers) && !parts.ah) {
    std::vector<std::string> known;
    AppendWords(kCiphers, &known);
    if (!ike) known.push_back(kAhWord);
    return WrongWord(text, words[0], known);
  }
  // AH needs what a cipher without integrity needs.
  parts.cipher = parts.ah ? CipherWord{kAhWord, Cipher::kAesCbc, 0} : *cipher;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (const auto* group = Find(kGroups, word); group != std::end(kGroups)) {
      ESPALIER_RETURN_IF_ERROR(AppendOnce(word, group->value, &parts.groups));
    } else if (const auto* prf = Find(kPrfs, word);
               ike && prf != std::end(kPrfs)) {
      ESPALIER_RETURN_IF_ERROR(AppendOnce(word, prf->value, &parts.prfs));
    } else if (const auto* integrity = Find(kIntegrities, word);
               integrity != std::end(kIntegrities)) {
      if (parts.integrity != Integrity::kNone) {
        return absl::InvalidArgumentError(absl::StrCat(
            "'", word, "' is a second integrity algorithm in the proposal '",
            text, "'; expected one (for a PRF write 'prf", word, "')"));
      }
      parts.integrity = integrity->value;
    } else if (!ike && !parts.esn && (word == "esn" || word == "noesn")) {
      parts.esn = word == "esn";
    } else {
      std::vector<std::string> known;
      AppendWords(kIntegrities, &known);
      if (ike) AppendWords(kPrfs, &known);
      AppendWords(kGroups, &known);
      if (!ike) known.insert(known.end(), {"esn", "noesn"});
      return WrongWord(text, word, known);
    }
  }
  const bool combined = parts.cipher.cipher != Cipher::kAesCbc;
  if (combined && parts.integrity != Integrity::kNone) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the proposal '", text, "' gives ", parts.cipher.word,
        " an integrity algorithm; expected none, it authenticates by itself",
        ike ? " (for a PRF write 'prfsha256', 'prfsha384' or 'prfsha512')"
            : ""));
  }
  if (!combined && parts.integrity == Integrity::kNone) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the proposal '", text, "' has no integrity algorithm, which ",
        parts.cipher.word, " needs: expected sha256, sha384 or sha512"));
  }
  return parts;
}

Prf PrfOf(Integrity integrity) {
  switch (integrity) {
    case Integrity::kHmacSha2_384_192:
      return Prf::kHmacSha2_384;
    case Integrity::kHmacSha2_512_256:
      return Prf::kHmacSha2_512;
    case Integrity::kHmacSha2_256_128:
    case Integrity::kNone:
      break;
  }
  return Prf::kHmacSha2_256;
}

}  // namespace

absl::StatusOr<ike::IkeProposal> ParseIkeProposal(const std::string& text) {
  ESPALIER_ASSIGN_OR_RETURN(Parts parts, Parse(text, true));
  if (parts.groups.empty()) {
    std::vector<std::string> known;
    AppendWords(kGroups, &known);
    return absl::InvalidArgumentError(
        absl::StrCat("the proposal '", text,
                     "' has no key exchange group: expected at least one of ",
                     absl::StrJoin(known, ", ")));
  }
  if (parts.prfs.empty()) {
    if (parts.integrity == Integrity::kNone) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the proposal '", text,
          "' has no PRF: expected prfsha256, prfsha384 or prfsha512"));
    }
    parts.prfs.push_back(PrfOf(parts.integrity));
  }
  ike::IkeProposal proposal;
  proposal.cipher = parts.cipher.cipher;
  proposal.key_bits = parts.cipher.key_bits;
  proposal.integrity = parts.integrity;
  proposal.prfs = std::move(parts.prfs);
  proposal.groups = std::move(parts.groups);
  return proposal;
}

absl::StatusOr<ike::ChildProposal> ParseChildProposal(const std::string& text) {
  ESPALIER_ASSIGN_OR_RETURN(Parts parts, Parse(text, false));
  ike::ChildProposal proposal;
  // Both enumerations carry IANA's numbers.
  proposal.cipher = static_cast<base::EspCipher>(parts.cipher.cipher);
  proposal.key_bits = parts.cipher.key_bits;
  if (parts.ah) {
    proposal.cipher = ike::ChildProposal().cipher;
    proposal.protocol = base::IpsecProtocol::kAh;
  }
  proposal.integrity = static_cast<base::EspIntegrity>(parts.integrity);
  proposal.groups = std::move(parts.groups);
  proposal.esn = parts.esn.value_or(true);
  return proposal;
}

std::string IkeSuiteText(crypto::Cipher cipher, uint16_t key_bits,
                         crypto::Prf prf, crypto::Group group) {
  const auto word = [](const auto& table, auto value) {
    for (const auto& entry : table) {
      if (entry.value == value) return entry.word;
    }
    return "?";
  };
  const char* cipher_word = "?";
  for (const CipherWord& entry : kCiphers) {
    if (entry.cipher == cipher && entry.key_bits == key_bits) {
      cipher_word = entry.word;
    }
  }
  return absl::StrCat(cipher_word, "-", word(kPrfs, prf), "-",
                      word(kGroups, group));
}

}  // namespace espalier::mesh
