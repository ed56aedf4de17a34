// What one call of each primitive costs. CPU time, one thread.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <variant>

#include "agent/crypto/cipher_suite.h"
#include "agent/crypto/hash.h"
#include "agent/crypto/job.h"
#include "agent/crypto/keys.h"
#include "agent/crypto/prf.h"
#include "agent/crypto/random.h"

namespace espalier::crypto {
namespace {

template <typename T>
T Must(Result result) {
  if (!result.ok()) std::abort();
  return std::get<T>(*std::move(result));
}

void BM_Generate(benchmark::State& state, Group group) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        Must<KeyExchangeGenerated>(Run(GenerateKeyExchange{group})));
  }
}

void BM_Derive(benchmark::State& state, Group group) {
  const auto own = Must<KeyExchangeGenerated>(Run(GenerateKeyExchange{group}));
  const auto peer = Must<KeyExchangeGenerated>(Run(GenerateKeyExchange{group}));
  const Job job = ComputeSharedSecret{own.key, peer.public_value};
  for (auto _ : state) {
    benchmark::DoNotOptimize(Must<SharedSecret>(Run(job)));
  }
}

void BM_Sign(benchmark::State& state, KeyType type, SignatureScheme scheme) {
  const Job job =
      Sign{*PrivateKey::Generate(type), scheme, base::Bytes(500, 1)};
  for (auto _ : state) benchmark::DoNotOptimize(Must<Signature>(Run(job)));
}

void BM_Verify(benchmark::State& state, KeyType type, SignatureScheme scheme) {
  const auto key = *PrivateKey::Generate(type);
  const base::Bytes data(500, 1);
  const auto signature = Must<Signature>(Run(Sign{key, scheme, data}));
  const Job job =
      VerifySignature{key->public_key(), signature.algorithm_identifier, data,
                      signature.signature};
  for (auto _ : state) benchmark::DoNotOptimize(Must<SignatureValid>(Run(job)));
}

void BM_Prf(benchmark::State& state, Prf prf) {
  const base::Bytes key(48, 1), data(state.range(0), 2);
  base::Bytes out(PrfSize(prf));
  for (auto _ : state) ComputePrf(prf, key, {data}, out);
}

// SK_d, SK_ei, SK_er, SK_pi, SK_pr of aes256gcm-prfsha384.
void BM_PrfPlusIkeKeys(benchmark::State& state) {
  const base::Bytes key(48, 1), nonce(32, 2), spi(8, 3);
  for (auto _ : state) {
    benchmark::DoNotOptimize(PrfPlus(
        Prf::kHmacSha2_384, key, {nonce, nonce, spi, spi}, 3 * 48 + 2 * 36));
  }
}

void BM_Seal(benchmark::State& state, CipherSuite suite) {
  const base::Bytes key(suite.encryption_key_size(), 1);
  const base::Bytes integrity(suite.integrity_key_size(), 2);
  base::Bytes message(32 + suite.BodySize(state.range(0)));
  uint64_t counter = 0;
  for (auto _ : state) {
    if (!Seal(suite, key, integrity, ++counter, message, 32).ok()) std::abort();
  }
}

void BM_Open(benchmark::State& state, CipherSuite suite) {
  const base::Bytes key(suite.encryption_key_size(), 1);
  const base::Bytes integrity(suite.integrity_key_size(), 2);
  base::Bytes message(32 + suite.BodySize(state.range(0)));
  if (!Seal(suite, key, integrity, 1, message, 32).ok()) std::abort();
  base::Bytes copy;
  for (auto _ : state) {
    copy = message;
    base::MutableByteSpan plaintext;
    if (!Open(suite, key, integrity, copy, 32, &plaintext)) std::abort();
  }
}

void BM_Sha1ForNatDetection(benchmark::State& state) {
  const base::Bytes data(22, 1);
  for (auto _ : state) benchmark::DoNotOptimize(Sha1ForNatDetection({data}));
}

void BM_Random32(benchmark::State& state) {
  SystemRandom random;
  base::Bytes out(32);
  for (auto _ : state) random.Fill(out);
}

constexpr CipherSuite kGcm256{Cipher::kAesGcm16, 256, Integrity::kNone};
constexpr CipherSuite kChaCha{Cipher::kChaCha20Poly1305, 256, Integrity::kNone};
constexpr CipherSuite kCbc256{Cipher::kAesCbc, 256,
                              Integrity::kHmacSha2_256_128};

BENCHMARK_CAPTURE(BM_Generate, x25519, Group::kX25519);
BENCHMARK_CAPTURE(BM_Generate, ecp256, Group::kEcp256);
BENCHMARK_CAPTURE(BM_Generate, ecp384, Group::kEcp384);
BENCHMARK_CAPTURE(BM_Generate, modp2048, Group::kModp2048);
BENCHMARK_CAPTURE(BM_Generate, modp3072, Group::kModp3072);
BENCHMARK_CAPTURE(BM_Generate, modp4096, Group::kModp4096);
BENCHMARK_CAPTURE(BM_Derive, x25519, Group::kX25519);
BENCHMARK_CAPTURE(BM_Derive, ecp256, Group::kEcp256);
BENCHMARK_CAPTURE(BM_Derive, ecp384, Group::kEcp384);
BENCHMARK_CAPTURE(BM_Derive, modp2048, Group::kModp2048);
BENCHMARK_CAPTURE(BM_Derive, modp3072, Group::kModp3072);
BENCHMARK_CAPTURE(BM_Derive, modp4096, Group::kModp4096);
BENCHMARK_CAPTURE(BM_Sign, ed25519, KeyType::kEd25519,
                  SignatureScheme::kEd25519);
BENCHMARK_CAPTURE(BM_Sign, ecdsa256, KeyType::kEcdsaP256,
                  SignatureScheme::kEcdsaP256Sha256);
BENCHMARK_CAPTURE(BM_Sign, rsapss, KeyType::kRsa,
                  SignatureScheme::kRsaPssSha256);
BENCHMARK_CAPTURE(BM_Verify, ed25519, KeyType::kEd25519,
                  SignatureScheme::kEd25519);
BENCHMARK_CAPTURE(BM_Verify, ecdsa256, KeyType::kEcdsaP256,
                  SignatureScheme::kEcdsaP256Sha256);
BENCHMARK_CAPTURE(BM_Verify, rsapss, KeyType::kRsa,
                  SignatureScheme::kRsaPssSha256);
BENCHMARK_CAPTURE(BM_Prf, sha256, Prf::kHmacSha2_256)->Arg(64);
BENCHMARK_CAPTURE(BM_Prf, sha384, Prf::kHmacSha2_384)->Arg(64)->Arg(400);
BENCHMARK(BM_PrfPlusIkeKeys);
BENCHMARK_CAPTURE(BM_Seal, aes256gcm16, kGcm256)->Arg(250);
BENCHMARK_CAPTURE(BM_Open, aes256gcm16, kGcm256)->Arg(250);
BENCHMARK_CAPTURE(BM_Seal, chacha20poly1305, kChaCha)->Arg(250);
BENCHMARK_CAPTURE(BM_Seal, aes256_sha256, kCbc256)->Arg(250);
BENCHMARK(BM_Sha1ForNatDetection);
BENCHMARK(BM_Random32);

}  // namespace
}  // namespace espalier::crypto

BENCHMARK_MAIN();
