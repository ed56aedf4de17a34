// The files that a configuration names.
#ifndef ESPALIER_AGENT_MESH_CONFIG_FILES_H_
#define ESPALIER_AGENT_MESH_CONFIG_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"

namespace espalier::mesh {

// A public key as a configuration writes it, PEM ("BEGIN PUBLIC KEY") or the
// base64 of DER, to DER SubjectPublicKeyInfo that agent/crypto accepts.
absl::StatusOr<base::Bytes> ParsePublicKey(const std::string& text);

// At most `max_size` octets of a regular file.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path,
                                          size_t max_size);

// As ReadWholeFile, for secrets: the file must belong to root or to this
// process's user, and nobody else may read or write it.
absl::StatusOr<base::SecretBytes> ReadSecretFile(const std::string& path,
                                                 size_t max_size);

// `path` as seen from the folder of the file `from`.
std::string RelativeTo(const std::string& from, const std::string& path);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_FILES_H_
