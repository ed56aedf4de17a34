// What espalier-cni writes to standard output, in each version's own format
// (CNI specification, section 5).
#ifndef ESPALIER_CNI_RESULT_H_
#define ESPALIER_CNI_RESULT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "cni/error.h"
#include "cni/version.h"
#include "espalier/v1/cni.pb.h"

namespace espalier::cni {

// `dns` is an object; `sandbox` the CNI_NETNS of this ADD.
std::string FormatSuccess(Version version, const v1::Attachment& attachment,
                          const std::string& sandbox,
                          const nlohmann::json& dns);

std::string FormatError(Version version, const Error& error);

// `version` is what the runtime asked with, whatever it was.
std::string FormatVersions(const std::string& version);

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_RESULT_H_
