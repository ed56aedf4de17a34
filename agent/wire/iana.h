// Numbers of IKEv2 as IANA's "IKEv2 Parameters" registry has them. The enums
// have a fixed width, so a value that is not listed here is held as it came.
#ifndef ESPALIER_AGENT_WIRE_IANA_H_
#define ESPALIER_AGENT_WIRE_IANA_H_

#include <cstdint>
#include <string>

namespace espalier::wire {

// RFC 7296 3.1; 9242 and 9370 for the last two.
enum class ExchangeType : uint8_t {
  kIkeSaInit = 34,
  kIkeAuth = 35,
  kCreateChildSa = 36,
  kInformational = 37,
  kIkeIntermediate = 43,
  kIkeFollowupKe = 44,
};

// RFC 7296 3.2; 53 is RFC 7383's.
enum class PayloadType : uint8_t {
  kNone = 0,
  kSa = 33,
  kKe = 34,
  kIdi = 35,
  kIdr = 36,
  kCert = 37,
  kCertreq = 38,
  kAuth = 39,
  kNonce = 40,
  kNotify = 41,
  kDelete = 42,
  kVendorId = 43,
  kTsi = 44,
  kTsr = 45,
  kEncrypted = 46,  // SK
  kCp = 47,
  kEap = 48,
  kEncryptedFragment = 53,  // SKF
};

// RFC 7296 3.3.1. 0 stands in Notify payloads that concern no SA.
enum class ProtocolId : uint8_t { kNone = 0, kIke = 1, kAh = 2, kEsp = 3 };

// RFC 7296 3.3.2; 6 to 12 are RFC 9370's.
enum class TransformType : uint8_t {
  kEncryption = 1,
  kPrf = 2,
  kIntegrity = 3,
  kKeyExchange = 4,
  kExtendedSequenceNumbers = 5,
  kAdditionalKeyExchange1 = 6,
  kAdditionalKeyExchange2 = 7,
  kAdditionalKeyExchange3 = 8,
  kAdditionalKeyExchange4 = 9,
  kAdditionalKeyExchange5 = 10,
  kAdditionalKeyExchange6 = 11,
  kAdditionalKeyExchange7 = 12,
};

// Transform type 5. Transform ids of types 1 to 4 are crypto's and base's
// enums, which carry IANA's values.
inline constexpr uint16_t kNoExtendedSequenceNumbers = 0;
inline constexpr uint16_t kExtendedSequenceNumbers = 1;

// RFC 7296 3.3.5: the one attribute there is.
inline constexpr uint16_t kAttributeKeyLength = 14;

// RFC 7296 3.5.
enum class IdType : uint8_t {
  kIpv4Addr = 1,
  kFqdn = 2,
  kRfc822Addr = 3,
  kIpv6Addr = 5,
  kDerAsn1Dn = 9,
  kDerAsn1Gn = 10,
  kKeyId = 11,
  kNull = 13,  // RFC 7619
};

// RFC 7296 3.6; RFC 7670 3 for the raw public key (DER SubjectPublicKeyInfo).
enum class CertEncoding : uint8_t {
  kX509Signature = 4,
  kCrl = 7,
  kHashAndUrlX509 = 12,
  kHashAndUrlX509Bundle = 13,
  kOcspContent = 14,  // RFC 4806
  kRawPublicKey = 15,
};

// RFC 7296 3.8; RFC 4754 for 9 to 11, RFC 7619 and RFC 7427 for the last two.
enum class AuthMethod : uint8_t {
  kRsaSignature = 1,
  kSharedKey = 2,
  kDssSignature = 3,
  kEcdsaSha256P256 = 9,
  kEcdsaSha384P384 = 10,
  kEcdsaSha512P521 = 11,
  kNull = 13,
  kDigitalSignature = 14,
};

// RFC 7427 7, RFC 8420 2: in SIGNATURE_HASH_ALGORITHMS.
enum class HashAlgorithm : uint16_t {
  kSha1 = 1,
  kSha2_256 = 2,
  kSha2_384 = 3,
  kSha2_512 = 4,
  kIdentity = 5,
};

// RFC 7296 3.13.1.
enum class TsType : uint8_t { kIpv4AddrRange = 7, kIpv6AddrRange = 8 };

// RFC 7296 3.10.1, and those of the extensions named beside them. Below 16384
// an error, from there on a status.
enum class NotifyType : uint16_t {
  kUnsupportedCriticalPayload = 1,
  kInvalidIkeSpi = 4,
  kInvalidMajorVersion = 5,
  kInvalidSyntax = 7,
  kInvalidMessageId = 9,
  kInvalidSpi = 11,
  kNoProposalChosen = 14,
  kInvalidKePayload = 17,
  kAuthenticationFailed = 24,
  kSinglePairRequired = 34,
  kNoAdditionalSas = 35,
  kInternalAddressFailure = 36,
  kFailedCpRequired = 37,
  kTsUnacceptable = 38,
  kInvalidSelectors = 39,
  kUnacceptableAddresses = 40,  // RFC 4555
  kUnexpectedNatDetected = 41,  // RFC 4555
  kTemporaryFailure = 43,
  kChildSaNotFound = 44,
  kStateNotFound = 47,  // RFC 9370
  kTsMaxQueue = 48,     // RFC 9611

  kInitialContact = 16384,
  kSetWindowSize = 16385,
  kAdditionalTsPossible = 16386,
  kIpcompSupported = 16387,
  kNatDetectionSourceIp = 16388,
  kNatDetectionDestinationIp = 16389,
  kCookie = 16390,
  kUseTransportMode = 16391,
  kHttpCertLookupSupported = 16392,
  kRekeySa = 16393,
  kEspTfcPaddingNotSupported = 16394,
  kNonFirstFragmentsAlso = 16395,
  kMobikeSupported = 16396,  // RFC 4555, as the next six
  kAdditionalIp4Address = 16397,
  kAdditionalIp6Address = 16398,
  kNoAdditionalAddresses = 16399,
  kUpdateSaAddresses = 16400,
  kCookie2 = 16401,
  kNoNatsAllowed = 16402,
  kChildlessIkev2Supported = 16418,      // RFC 6023
  kIkev2FragmentationSupported = 16430,  // RFC 7383
  kSignatureHashAlgorithms = 16431,      // RFC 7427
  kUsePpk = 16435,                       // RFC 8784, as the next two
  kPpkIdentity = 16436,
  kNoPpkAuth = 16437,
  kIntermediateExchangeSupported = 16438,  // RFC 9242
  kAdditionalKeyExchange = 16441,          // RFC 9370
  kSaResourceInfo = 16444,                 // RFC 9611
};

// RFC 7296 3.10.1: types 0 to 16383 report errors.
constexpr bool IsError(NotifyType type) {
  return static_cast<uint16_t>(type) < 16384;
}

// The RFC's word ("IKE_AUTH", "TSi", "NO_PROPOSAL_CHOSEN"), or the number.
std::string ToString(ExchangeType type);
std::string ToString(PayloadType type);
std::string ToString(ProtocolId protocol);
std::string ToString(NotifyType type);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_IANA_H_
