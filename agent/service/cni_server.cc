#include "agent/service/cni_server.h"

#include <utility>

#include "agent/base/clock.h"
#include "agent/base/run_directory.h"
#include "agent/base/status_macros.h"
#include "agent/ipam/file_system.h"
#include "agent/pods/pod_network.h"
#include "agent/service/grpc_server.h"
#include "agent/service/serial_worker.h"
#include "espalier/v1/cni.grpc.pb.h"

namespace espalier::service {
namespace {

// Takes calls on gRPC's threads, which only post.
class CniService : public v1::Cni::CallbackService {
 public:
  CniService(pods::Manager* manager, base::Executor* executor)
      : manager_(manager), executor_(executor) {}

  grpc::ServerUnaryReactor* Add(grpc::CallbackServerContext* context,
                                const v1::AddRequest* request,
                                v1::AddResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    executor_->Post([this, request, response, reactor] {
      manager_->Add(*request, [response, reactor](v1::AddResponse result) {
        *response = std::move(result);
        reactor->Finish(grpc::Status::OK);
      });
    });
    return reactor;
  }
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteRequest* request,
                                   v1::DeleteResponse* response) override {
    return Do(context, response,
              [this, request] { return manager_->Delete(*request); });
  }
  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const v1::CheckRequest* request,
                                  v1::CheckResponse* response) override {
    return Do(context, response,
              [this, request] { return manager_->Check(*request); });
  }
  grpc::ServerUnaryReactor* CollectGarbage(
      grpc::CallbackServerContext* context,
      const v1::CollectGarbageRequest* request,
      v1::CollectGarbageResponse* response) override {
    return Do(context, response,
              [this, request] { return manager_->CollectGarbage(*request); });
  }
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const v1::StatusRequest*,
                                   v1::StatusResponse* response) override {
    return Do(context, response, [this] { return manager_->Status(); });
  }

 private:
  // Request and response live until Finish.
  template <typename Response, typename Work>
  grpc::ServerUnaryReactor* Do(grpc::CallbackServerContext* context,
                               Response* response, Work work) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    executor_->Post([response, reactor, work = std::move(work)] {
      *response = work();
      reactor->Finish(grpc::Status::OK);
    });
    return reactor;
  }

  pods::Manager* const manager_;
  base::Executor* const executor_;
};

}  // namespace

class CniServer::Impl {
 public:
  explicit Impl(const Options& options)
      : network_(&kernel_),
        manager_(options.run_directory, options.state_directory,
                 options.settings,
                 {&network_, &files_, &clock_, &worker_, &reaper_,
                  options.guard, options.modes}),
        worker_(base::kHeartbeatInterval, [this] { manager_.Tick(); }),
        service_(&manager_, &worker_) {}

  ~Impl() {
    // Waits for calls under way; the threads that finish them still run.
    server_.reset();
    worker_.Stop();
    reaper_.Stop();
  }

  absl::Status Start(const Options& options) {
    const base::RunDirectory run_directory(options.run_directory);
    ESPALIER_RETURN_IF_ERROR(files_.MakeDirectory(run_directory.path()));
    // A mistake in the settings is the caller's to see; all else is retried.
    ESPALIER_RETURN_IF_ERROR(
        ipam::Allocator::Create(options.settings.pod_cidrs).status());
    worker_.Post([this] { (void)manager_.Start(); });
    ESPALIER_ASSIGN_OR_RETURN(
        server_, GrpcServer::Start(run_directory.CniSocket(), {&service_}));
    return absl::OkStatus();
  }

  pods::Manager& manager() { return manager_; }
  SerialWorker& worker() { return worker_; }

 private:
  pods::KernelPodNetwork::Kernel kernel_;
  pods::KernelPodNetwork network_;
  ipam::FileSystem files_;
  base::SteadyClock clock_;
  SerialWorker reaper_;
  pods::Manager manager_;
  SerialWorker worker_;
  CniService service_;
  std::unique_ptr<GrpcServer> server_;
};

CniServer::CniServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CniServer::~CniServer() = default;

absl::StatusOr<std::unique_ptr<CniServer>> CniServer::Start(Options options) {
  auto impl = std::make_unique<Impl>(options);
  ESPALIER_RETURN_IF_ERROR(
      base::Annotate(impl->Start(options), "serve the CNI socket"));
  return std::unique_ptr<CniServer>(new CniServer(std::move(impl)));
}

void CniServer::SetReady(absl::Status ready) {
  impl_->worker().Post([impl = impl_.get(), ready = std::move(ready)] {
    impl->manager().SetReady(ready);
  });
}

void CniServer::SetRefusal(absl::Status refusal) {
  impl_->worker().Post([impl = impl_.get(), refusal = std::move(refusal)] {
    impl->manager().SetRefusal(refusal);
  });
}

void CniServer::Reconfigure(pods::Settings settings,
                            std::function<void(absl::Status)> done) {
  impl_->worker().Post([impl = impl_.get(), settings = std::move(settings),
                        done = std::move(done)]() mutable {
    absl::Status status = impl->manager().Reconfigure(std::move(settings));
    if (done) done(std::move(status));
  });
}

void CniServer::TakeSnapshot(std::function<void(pods::Snapshot)> done) {
  impl_->worker().Post([impl = impl_.get(), done = std::move(done)] {
    done(impl->manager().TakeSnapshot());
  });
}

}  // namespace espalier::service
