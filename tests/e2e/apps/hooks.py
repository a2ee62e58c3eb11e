"""A handler as it runs on AWS, not decorated, not changed."""

import json


def lambda_handler(event, context):
    body = json.loads(event["body"] or "{}")
    if body.get("fail"):
        raise ValueError("asked to")
    if body.get("bad"):
        return {"statusCode": 99}
    return {
        "statusCode": 201,
        "headers": {"X-Kind": "hook", "Content-Type": "application/json"},
        "body": json.dumps(
            {
                "got": body,
                "method": event["httpMethod"],
                "query": event["queryStringParameters"],
                "agent": "user-agent" in event["headers"],
                "token": "authorization" in event["headers"],
                "id": context.aws_request_id,
                "time_left": context.get_remaining_time_in_millis() > 0,
            }
        ),
    }
