"""Says whether the official Standard Webhooks library verifies a request, given as JSON on standard input.

The argument is the folder that the library is installed in.
"""

import base64
import json
import sys

sys.path.insert(0, sys.argv[1])

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

question = json.load(sys.stdin)
signed = base64.b64decode(question["signed"])
try:
    Webhook(question["secret"]).verify(signed, question["headers"], json_parse=False)
except WebhookVerificationError as error:
    print(error)
else:
    print("verified")
