// Facts about the key exchange groups; the exchange itself is a Job (job.h).
// MODP of RFC 3526, ECP of RFC 5903, X25519 of RFC 8031.
#ifndef ESPALIER_AGENT_CRYPTO_KEY_EXCHANGE_H_
#define ESPALIER_AGENT_CRYPTO_KEY_EXCHANGE_H_

#include <cstddef>
#include <string>

#include "agent/crypto/algorithms.h"

namespace espalier::crypto {

// Octets of Key Exchange Data in a KE payload: the prime's size for MODP
// (RFC 7296 3.4), x || y for ECP (RFC 5903 7), 32 for X25519.
size_t PublicValueSize(Group group);
// Octets of g^ir: the prime's size for MODP, x alone for ECP.
size_t SharedSecretSize(Group group);
std::string ToString(Group group);  // "modp2048", "ecp256", "x25519"

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_KEY_EXCHANGE_H_
