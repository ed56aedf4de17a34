#include "agent/esp/cipher.h"

#include <utility>

namespace espalier::esp {

absl::StatusOr<std::unique_ptr<crypto::EspCipher>> MakeCipher(
    const base::EspSa& sa, CipherChoice choice) {
  // Made first even where ipsec-mb takes over: it checks suite and keys.
  absl::StatusOr<std::unique_ptr<crypto::EspCipher>> cipher =
      crypto::MakeEspCipher(sa.suite, sa.direction, sa.encryption_key.span(),
                            sa.integrity_key.span());
  if (!cipher.ok() || choice == CipherChoice::kOpenssl) return cipher;
  std::unique_ptr<crypto::EspCipher> fast =
      MakeIpsecMbCipher(sa.suite, sa.encryption_key.span());
  if (fast != nullptr) return fast;
  return cipher;
}

}  // namespace espalier::esp
