// What the protocol core asks of the world, and what the world tells it back.
// Values only: no sockets, no threads, no clock (DESIGN: sans-IO).
#ifndef ESPALIER_AGENT_IKE_ACTION_H_
#define ESPALIER_AGENT_IKE_ACTION_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/clock.h"
#include "agent/base/ip_address.h"
#include "agent/base/security_association.h"
#include "agent/base/strong_id.h"
#include "agent/crypto/job.h"

namespace espalier::ike {

// The owner's name for a peer; never on the wire.
using PeerId = base::StrongId<struct PeerIdTag, uint32_t>;
// The core's names; unique in one core's life.
using IkeSaId = base::StrongId<struct IkeSaIdTag, uint64_t>;
using ChildSaId = base::StrongId<struct ChildSaIdTag, uint64_t>;
using CryptoJobId = base::StrongId<struct CryptoJobIdTag, uint64_t>;
using DatapathOpId = base::StrongId<struct DatapathOpIdTag, uint64_t>;

// Both ends of the UDP flow an IKE message came over or goes to. The local
// port names the socket; on any but 500 the owner adds and strips the 4 zero
// octets of the non-ESP marker (RFC 3948 2.2), the core never sees it.
struct Path {
  base::Endpoint local;
  base::Endpoint remote;
  friend auto operator<=>(const Path&, const Path&) = default;
};

// --- out ---

struct SendDatagram {
  Path path;
  base::Bytes bytes;
};

// One octet 0xff on the 4500 path, without marker (RFC 3948 2.3).
struct SendNatKeepalive {
  Path path;
};

// Answered by HandleCryptoDone.
struct RunCrypto {
  CryptoJobId id;
  crypto::Job job;
};

// Answered by HandleDatapathDone. An inbound SA is always asked for, and
// answered, before its outbound twin. Installing an outbound SA IS the switch
// of that peer's traffic to it.
struct InstallSa {
  DatapathOpId op;
  PeerId peer;
  ChildSaId child;
  base::EspSa sa;
};

// Answered by HandleDatapathDone; an SA that is already gone is OK.
struct RemoveSa {
  DatapathOpId op;
  PeerId peer;
  ChildSaId child;
  base::Direction direction;
  base::Spi spi;
  base::IpAddress outer_destination;
};

// Asks for one HandleInboundSeen when the first packet has passed this
// inbound SA (the peer has switched).
struct WatchInbound {
  PeerId peer;
  ChildSaId child;
  base::Spi spi;
};

// For logs, metrics and the mesh; needs no answer.
struct Event {
  enum class Kind : uint8_t {
    kIkeSaUp,
    kIkeSaDown,
    kIkeSaRekeyed,
    kChildSaUp,
    kChildSaDown,
    kChildSaRekeyed,
    kAuthenticationFailed,
    kNoProposalChosen,
    kTsUnacceptable,
    kPeerUnreachable,  // retransmissions or liveness ran out
    kProtocolError,
  };
  Kind kind;
  PeerId peer;
  IkeSaId ike_sa;
  ChildSaId child;     // 0 when the event is of the IKE_SA
  std::string detail;  // for people, no secrets
};

// Only with CoreConfig::key_log: what a capture needs to be read (the format
// is the owner's). SK_e carries the 4-octet salt of combined-mode ciphers.
struct LogIkeKeys {
  uint64_t initiator_spi;
  uint64_t responder_spi;
  crypto::Cipher cipher;
  uint16_t key_bits;
  crypto::Integrity integrity;
  base::SecretBytes sk_ei, sk_er, sk_ai, sk_ar;
};

using Action =
    std::variant<SendDatagram, SendNatKeepalive, RunCrypto, InstallSa, RemoveSa,
                 WatchInbound, Event, LogIkeKeys>;

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_ACTION_H_
